"""Reading the log: one statement, and so one snapshot, for many callers."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, TypeVar

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.protocol import Find, Read
from agentstore.records import Session

from . import sql
from .literals import literal, values
from .transaction import messages_of, stored_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentstore.protocol import Head, Listing, Outcome
    from agentstore.records import Message, Page

    from .transaction import Wire
    from .wire import Row

In = TypeVar("In", Read, Find)

_TOGETHER = 50  # readers in one statement: each adds a part to its UNION
_SEQ = 1 + sql.MESSAGE.index("seq")

_OWNERS = (  # those that are there, in the columns of messages: role and id are ids too
    "SELECT -1, "
    + ", ".join({"role": "user_id", "id": "session_id"}.get(name, "NULL") for name in sql.MESSAGE)
    + f" FROM agentstore_sessions FORCE INDEX (PRIMARY) WHERE updated_at IS NOT NULL AND {sql.LIVE} AND session_id IN "
)
_OWNER, _SESSION_ID = 1 + sql.MESSAGE.index("role"), 1 + sql.MESSAGE.index("id")


async def read(wire: Wire, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
    """Range scans of the primary key, each from the end that its limit counts from."""
    return await _look(wire, batch, _range)


async def find(wire: Wire, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
    """By the index of ids."""
    found = zip(batch, await _look(wire, batch, _named), strict=True)
    return [
        {message.id: message for message in outcome if message.id in op.ids} if isinstance(outcome, list) else outcome
        for op, outcome in found
    ]


async def _look(wire: Wire, batch: Sequence[In], part: Callable[[int, In], str]) -> list[Outcome[list[Message]]]:
    """The messages that `part` selects for each, if its session is there and may be seen."""
    found: list[Outcome[list[Message]]] = []
    chunks = [batch[at : at + _TOGETHER] for at in range(0, len(batch), _TOGETHER)]
    results = await wire.send(*(_statement(chunk, part) for chunk in chunks))
    for chunk, result in zip(chunks, results, strict=True):
        found += _answers(chunk, result)
    return found


def _statement(batch: Sequence[In], part: Callable[[int, In], str]) -> str:
    owners = _OWNERS + values(sorted({op.session_id for op in batch}))
    return " UNION ALL ".join([owners, *(part(index, op) for index, op in enumerate(batch))])


def _range(index: int, op: Read) -> str:
    condition = sql.between(op.session_id, op.after, op.before)
    part = f"SELECT {index}, {rows.MESSAGE} FROM agentstore_messages FORCE INDEX (PRIMARY) WHERE {condition}"
    if op.limit is None:
        return part
    direction = "ASC" if op.oldest_first else "DESC"
    return f"({part} ORDER BY seq {direction} LIMIT {sql.bounded(op.limit)})"


def _named(index: int, op: Find) -> str:
    keys = values(rows.id_key(op.session_id, message_id) for message_id in op.ids) if op.ids else "(NULL)"
    return (
        f"SELECT {index}, {rows.MESSAGE} FROM agentstore_messages FORCE INDEX (agentstore_messages_by_id)"
        f" WHERE id_key IN {keys} AND session_id = {literal(op.session_id)}"
    )


def _answers(batch: Sequence[In], found: Sequence[Row]) -> list[Outcome[list[Message]]]:
    owners: dict[str, str | None] = {}
    parts: defaultdict[int, list[Row]] = defaultdict(list)
    for row in found:
        if row[0] < 0:
            owners[row[_SESSION_ID]] = row[_OWNER]
        else:
            parts[row[0]].append(row)
    asked = iter(range(len(batch)))

    def answer(op: In) -> list[Message]:
        index = next(asked)
        if op.session_id not in owners:
            return []
        rules.check_owner(Session(op.session_id, owners[op.session_id]), op.user_id)
        return messages_of(sorted(parts[index], key=itemgetter(_SEQ)), 1)  # a UNION promises no order

    return rules.each(batch, answer)


async def heads(wire: Wire, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
    """The sessions, each by its primary key."""
    (found,) = await wire.send(sql.heads({op.session_id for op in batch}, f"{rows.SESSION}, {sql.CLOCK}"))
    by_id = {row[0]: row for row in found}

    def answer(op: Head) -> Session | None:
        row = by_id.get(op.session_id)
        return row and rules.visible(stored_of(row[:-1]).session, op.user_id, codec.from_micros(row[-1]))

    return rules.each(batch, answer)


async def list_sessions(wire: Wire, listing: Listing) -> Page[Session]:
    """A page from the index by time, or by user and time.

    A session in it that cannot be read fails the page, by name: leaving it out would hide it.
    """
    index = "time" if listing.user_id is None else "user"
    (found,) = await wire.send(
        f"SELECT {rows.SESSION} FROM agentstore_sessions FORCE INDEX (agentstore_sessions_by_{index})"
        f" WHERE {' AND '.join(_conditions(listing))}"
        f" ORDER BY updated_at DESC, session_id DESC LIMIT {sql.bounded(listing.limit + 1)}"
    )
    return rules.page([session for row in found if (session := stored_of(row).session)], listing.limit)


def _conditions(listing: Listing) -> Iterator[str]:
    yield "updated_at IS NOT NULL"
    yield sql.LIVE
    for name, value in (("user_id", listing.user_id), ("agent", listing.agent)):
        if value is not None:
            yield f"{name} = {literal(value)}"
    if listing.cursor is not None:
        updated_at, session_id = rules.read_cursor(listing.cursor)
        yield f"updated_at <= {updated_at}"  # a range of the index, which a comparison of pairs is not on both products
        yield f"(updated_at < {updated_at} OR session_id < {literal(session_id)})"
