"""What a session is, put together from its heads: each writer has one, and they may be of different age."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.errors import CorruptRecordError

from .literals import listed, literal
from .numbers import Scale, end
from .records import dense_of, head_row, session_of, tombstone_row
from .schema import HEAD, HEAD_COLUMNS, KEY, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from agentstore.records import Session

    from .link import Link, Row

_KEY, _INDEXED = 4, 8  # columns
_ID, _NUM, _LAST_SEQ, _VERSION, _DELETED, _FLOOR, _EXPIRES_AT = 1, 2, 4, 5, 6, 7, 13
_TOGETHER = 500  # ids in a statement


@dataclass(slots=True)
class Known:
    """What the log says of a session id.

    Attributes:
        session_id: Its name.
        row: The head that counts; None if there has never been one.
        last_seq: The last seq ever given.
        floor: Messages up to this seq are gone.
        scale: How its seqs are spread.
        version: The highest of its heads'.
        slots: Where it has heads.
        count: Messages it holds, if they were counted.
        decoded: The session of the head that counts, if it need not be read.
        sent_seq: The highest seq that may yet be stored, by an INSERT of this process that failed.
        sent_version: The highest such version.
    """

    session_id: str
    row: Row | None = None
    last_seq: int = 0
    floor: int = 0
    scale: Scale = field(default_factory=lambda: Scale(0))
    version: int = 0
    slots: list[int] = field(default_factory=list)
    count: int = 0
    decoded: Session | None = None
    sent_seq: int = 0
    sent_version: int = 0

    @property
    def top(self) -> int:
        """Where new seqs have to be above."""
        return max(self.last_seq, self.sent_seq)

    @property
    def is_gone(self) -> bool:
        """Whether there is no session, not even an expired one."""
        return self.row is None or bool(self.row[_DELETED])

    @property
    def slot(self) -> int | None:
        """Where the head that counts is."""
        return None if self.row is None else self.row[_NUM]

    @property
    def session(self) -> Session | None:
        """The session, expired or not; None if there is none.

        Raises:
            CorruptRecordError: It cannot be read.
        """
        if self.row is None or self.is_gone:
            return None
        return self.decoded or session_of(self.row, self.last_seq, self.count)

    def next_version(self, now: datetime) -> int:
        """A version for what is written now: above all that was read, and all that may yet be stored."""
        return max(codec.to_micros(now), self.version + 1, self.sent_version + 1)

    def head(self, session: Session, slot: int, version: int, *, floor: int | None = None) -> Row:
        """The row that says what the session has become."""
        floor = self.floor if floor is None else max(floor, self.floor)
        return head_row(session, slot, version, floor, self.scale.dense_to)

    def tombstones(self, slot: int, version: int, *, floor: int | None = None) -> list[Row]:
        """The rows that leave only the last seq of it, in whatever slot there is a head."""
        slots = {slot, *self.slots}
        floor = self.top if floor is None else floor
        return [tombstone_row(self.session_id, at, version, self.top, floor) for at in sorted(slots)]

    def is_live(self, now: datetime) -> bool:
        """Whether there is a session, readable or not, that has not expired."""
        return self.row is not None and not self.is_gone and self.row[_EXPIRES_AT] > codec.to_micros(now)


def newest(rows: Iterable[Row]) -> list[Row]:
    """Of rows of `INDEX_COLUMNS` with one key those with the highest version: parts may not have been merged yet.

    Of few rows it is done here: the server would take longer.
    """
    found: dict[Row, Row] = {}
    for row in rows:
        there = found.get(row[:_KEY])
        if there is None or there[_VERSION] < row[_VERSION]:
            found[row[:_KEY]] = row
    return list(found.values())


def known_of(session_id: str, rows: Sequence[Row]) -> Known:
    """What the rows of a session's heads, of `HEAD_COLUMNS` or `INDEX_COLUMNS`, say together."""
    known = Known(session_id)
    if rows:
        # Of two that are equally new the one in use counts, so that a session restored over its tombstones is seen.
        known.row = max(rows, key=lambda row: (row[_VERSION], not row[_DELETED], row[_NUM]))
        known.last_seq = max(row[_LAST_SEQ] for row in rows)
        known.floor = max(row[_FLOOR] for row in rows)
        known.scale = Scale(max(map(dense_of, rows)) if len(rows[0]) > _INDEXED else 0)
        known.version = known.row[_VERSION]
        known.slots = [row[_NUM] for row in rows]
    return known


def together(rows: Iterable[Row], session_ids: Iterable[str]) -> dict[str, Known]:
    """What rows of heads say of each session."""
    found: dict[str, list[Row]] = {session_id: [] for session_id in session_ids}
    for row in rows:
        if row[_ID] in found:
            found[row[_ID]].append(row)
    return {session_id: known_of(session_id, rows) for session_id, rows in found.items()}


async def load(link: Link, session_ids: Iterable[str], *, counted: bool = False) -> dict[str, Known]:
    """What the log says of sessions; `counted` adds how many messages each has."""
    wanted = sorted(set(session_ids))
    found: dict[str, Known] = {}
    for at in range(0, len(wanted), _TOGETHER):
        part = wanted[at : at + _TOGETHER]
        statement = (
            f"SELECT {HEAD_COLUMNS} FROM agentstore_log WHERE kind = {HEAD} AND session_id IN {listed(part)}"
            f" ORDER BY session_id, num, version DESC LIMIT 1 BY session_id, num"
        )
        found |= together(await link.select(statement), part)
        if counted:
            await _count(link, [found[session_id] for session_id in part if found[session_id].row is not None])
    return found


async def _count(link: Link, sessions: Sequence[Known]) -> None:
    if not sessions:
        return
    condition = " OR ".join(alive(known) for known in sessions)
    counts = await link.select(
        "SELECT session_id, toInt64(uniqExact(id)) FROM (SELECT session_id, id FROM agentstore_log"
        f" WHERE {condition} GROUP BY {KEY} HAVING argMax(deleted, version) = 0) GROUP BY session_id"
    )
    by_id: dict[str, int] = dict(counts)
    for known in sessions:
        known.count = by_id.get(known.session_id, 0)


def alive(known: Known) -> str:
    """The condition for messages that may be there."""
    return (
        f"(kind = {MESSAGE} AND session_id = {literal(known.session_id)}"
        f" AND num > {known.floor} AND num < {end(known.last_seq)})"
    )


def readable(
    found: Mapping[str, Known], marks: Mapping[str, rules.Marks]
) -> tuple[dict[str, rules.Stored], dict[str, CorruptRecordError]]:
    """The sessions as the rules take them, and what is wrong with those that cannot be read."""
    stored: dict[str, rules.Stored] = {}
    broken: dict[str, CorruptRecordError] = {}
    for session_id, known in found.items():
        try:
            stored[session_id] = rules.Stored(known.session, known.top, marks=marks.get(session_id, {}))
        except CorruptRecordError as error:
            broken[session_id] = error
    return stored, broken
