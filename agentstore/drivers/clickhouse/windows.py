"""Reading messages from one end, without reading the rest.

A limit does not keep a server of the kind from sorting all rows of a session. But seqs tell about how many messages lie
between two of them, so a reader asks for a window of seqs in which there should be enough; and, if others were removed
there, for the next one, four times as wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING

from .literals import literal
from .numbers import end
from .records import messages_of
from .schema import MESSAGE, MESSAGE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import Read
    from agentstore.records import Message

    from .heads import Known
    from .link import Link, Row

_SLACK = 16  # seqs that pops, clears and retries used up
_WIDER = 4
_ID, _SEQ = 2, 3
_TOGETHER = 50  # windows in a statement: each is a range for the server to think about


@dataclass(slots=True)
class Reader:
    """One reader's way through a session.

    Attributes:
        known: The session.
        op: What is asked for.
        rows: Rows of live messages found so far, by id: of one that two processes stored, the first.
        above: Seqs above this are to be read.
        below: Seqs below this are.
        reach: How far the next window goes; None if to the end.
    """

    known: Known
    op: Read
    rows: dict[str, Row]
    above: int
    below: int
    reach: int | None

    @classmethod
    def of(cls, known: Known, op: Read) -> Reader:
        """At the end from which `op` reads."""
        above = max(known.floor, op.after or 0)
        below = end(known.last_seq)  # what came since may be another owner's, of a session made anew
        if op.before is not None:
            below = max(min(op.before, below), 0)
        return cls(known, op, {}, above, below, None if op.limit is None else op.limit + _SLACK)

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to read."""
        return self.above + 1 >= self.below or (self.op.limit is not None and len(self.rows) >= self.op.limit)

    def window(self) -> tuple[int, int]:
        """The bounds, both exclusive, of what to read next."""
        low, high = self.above, self.below
        scale, last = self.known.scale, self.known.last_seq
        if self.reach is None:
            self.above = self.below
        elif self.op.oldest_first:
            stop = scale.seq(scale.place(low) + self.reach)
            if stop <= last:
                high = min(high, stop)
            self.above = high - 1
        else:
            start = scale.seq(scale.place(min(high - 1, last)) - self.reach) - 1
            low = max(low, start)
            self.below = low + 1
        if self.reach is not None:
            self.reach *= _WIDER
        return low, high

    def take(self, row: Row) -> None:
        """Keep a row of `MESSAGE_COLUMNS`."""
        there = self.rows.get(row[_ID])
        if there is None or row[_SEQ] < there[_SEQ]:
            self.rows[row[_ID]] = row

    def messages(self) -> list[Message]:
        """What was asked for.

        Raises:
            CorruptRecordError: A row holds what no message has.
        """
        found = sorted(self.rows.values(), key=itemgetter(_SEQ, _ID))
        limit = self.op.limit
        if limit is not None:
            found = found[:limit] if self.op.oldest_first else found[max(0, len(found) - limit) :]
        return messages_of(found)


async def read(link: Link, readers: Iterable[Reader]) -> None:
    """Let all of them read what they need, in as few statements as possible."""
    left = [reader for reader in readers if not reader.is_done]
    while left:
        for at in range(0, len(left), _TOGETHER):
            await _step(link, left[at : at + _TOGETHER])
        left = [reader for reader in left if not reader.is_done]


async def _step(link: Link, readers: Sequence[Reader]) -> None:
    """One window of each. Readers of one session get one another's rows, and leave what is outside of their own."""
    windows = [(reader, *reader.window()) for reader in readers]
    conditions = sorted({_between(reader.known.session_id, low, high) for reader, low, high in windows})
    found = await link.select(
        f"SELECT {MESSAGE_COLUMNS} FROM agentstore_log"  # noqa: S608  see `literals`
        f" WHERE {' OR '.join(conditions)} ORDER BY session_id, num, id, version DESC LIMIT 1 BY session_id, num, id"
    )
    by_session: dict[str, list[Row]] = {}
    for row in found:
        if not row[1]:  # deleted
            by_session.setdefault(row[0], []).append(row)
    for reader, low, high in windows:
        for row in by_session.get(reader.known.session_id, ()):
            if low < row[_SEQ] < high:
                reader.take(row)


def _between(session_id: str, low: int, high: int) -> str:
    return f"(kind = {MESSAGE} AND session_id = {literal(session_id)} AND num > {low} AND num < {high})"
