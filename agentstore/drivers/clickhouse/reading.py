"""Reading: first what the sessions are, then the messages that are asked for, each for many callers at once."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.records import utcnow

from . import heads, windows
from .literals import literal
from .schema import HEAD
from .windows import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentstore.protocol import Head, Listing, Outcome, Read
    from agentstore.records import Message, Page, Session

    from .link import Link

_PAGE = 20  # candidates more than asked for: some may change before they are read


async def read(link: Link, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
    """Messages of many sessions."""
    known = await heads.load(link, {op.session_id for op in batch})
    now = utcnow()
    readers: dict[int, Reader] = {}

    def begin(index: int) -> None:
        op = batch[index]
        here = known[op.session_id]
        if rules.visible(here.session, op.user_id, now) is not None:
            readers[index] = Reader.of(here, op)

    begun = rules.each(range(len(batch)), begin)
    await windows.read(link, readers.values())
    told = rules.each(range(len(batch)), lambda index: readers[index].messages() if index in readers else [])
    return [found if error is None else error for error, found in zip(begun, told, strict=True)]


async def heads_of(link: Link, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
    """Many sessions, each with its messages counted."""
    known = await heads.load(link, {op.session_id for op in batch}, counted=True)
    now = utcnow()
    return rules.each(batch, lambda op: rules.visible(known[op.session_id].session, op.user_id, now))


async def list_sessions(link: Link, listing: Listing) -> Page[Session]:
    """The newest by their heads, which stand together, until the page is full.

    A session in it that cannot be read fails the page, by name: leaving it out would hide it.
    """
    found: list[Session] = []
    bound = None if listing.cursor is None else rules.read_cursor(listing.cursor)
    while len(found) <= listing.limit:
        wanted = min(listing.limit + 1 - len(found) + _PAGE, 2**31)
        now = utcnow()
        candidates = await link.select(
            f"SELECT session_id, argMax(updated_at, version) AS last FROM agentstore_log WHERE kind = {HEAD}"
            " GROUP BY session_id"
            f" HAVING {' AND '.join(_conditions(listing, bound, codec.to_micros(now)))}"
            f" ORDER BY last DESC, session_id DESC LIMIT {wanted}"
        )
        known = await heads.load(link, [session_id for session_id, _ in candidates], counted=True)
        for session_id, updated_at in candidates:
            session = rules.visible(known[session_id].session, None, now)
            if session is not None and _belongs(session, listing, updated_at):
                found.append(session)
        if len(candidates) < wanted:
            break
        bound = (candidates[-1][1], candidates[-1][0])
    return rules.page(found, listing.limit)


def _conditions(listing: Listing, bound: tuple[int, str] | None, now: int) -> Iterator[str]:
    yield "argMax(deleted, version) = 0"
    yield f"argMax(expires_at, version) > {now}"
    for name, value in (("user_id", listing.user_id), ("agent", listing.agent)):
        if value is not None:
            yield f"argMax({name}, version) = {literal(value)}"
    if bound is not None:
        yield f"(last < {bound[0]} OR last = {bound[0]} AND session_id < {literal(bound[1])})"


def _belongs(session: Session, listing: Listing, updated_at: int) -> bool:
    """Whether the session is still what its candidate says: one that changed meanwhile comes elsewhere, or did."""
    return (
        codec.to_micros(session.updated_at) == updated_at
        and listing.user_id in (None, session.user_id)
        and listing.agent in (None, session.agent)
    )
