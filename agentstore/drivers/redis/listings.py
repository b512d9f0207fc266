"""Pages of sessions, and the removal of those that have expired."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.concurrency import uncancelled
from agentstore.errors import CorruptRecordError

from . import records
from .client import Command
from .keys import listed, moment
from .sessions import Write, commit, load_commands, loaded
from .wire import TIME, Pair, Wire, checked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from agentstore.protocol import Listing
    from agentstore.records import Page, Session

_SLACK = 20  # entries more than a page needs, for those that turn out to be no sessions
_MOST = 2**31 - 1
_SETTLED = 60_000_000  # microseconds after which an entry whose write did not come is a leftover
_CHUNK = 500


async def list_sessions(wire: Wire, listing: Listing) -> Page[Session]:
    """A page, each entry of which is checked against its session's head.

    An entry may be older than the session, which was touched since: then the head says where it belongs. (A newer one,
    on a cluster, is that of a write which has not come yet or never will: the session has another entry as well.) What
    cannot be read fails the page, by name: leaving it out would hide it.
    """
    cursor = None if listing.cursor is None else rules.read_cursor(listing.cursor)
    found: dict[str, Session] = {}
    dead: list[str] = []
    key = wire.keys.sessions if listing.user_id is None else wire.keys.user(listing.user_id)
    start = "+" if cursor is None else f"({moment(cursor[0])}{cursor[1]}"
    wanted = min(listing.limit, _MOST) + 1
    size = wanted + _SLACK
    while len(found) < wanted and start:
        (raw,) = await wire.ask(Command(key, ("ZREVRANGEBYLEX", key, start, "-", "LIMIT", 0, size)))
        members = [member.decode() for member in raw]
        start = f"({members[-1]}" if len(members) == size else ""
        heads, now = await _heads(wire, [listed(member)[1] for member in members])
        for member, session in zip(members, heads, strict=True):
            updated_at, session_id = listed(member)
            if session is None or rules.listing_key(session)[0] != updated_at:
                dead.append(member)
            if (
                session is None
                or rules.listing_key(session)[0] < updated_at
                or not rules.is_live(session.expires_at, now)
            ):
                continue
            if _belongs(session, listing) and (cursor is None or rules.listing_key(session) < cursor):
                found[session_id] = session
        settled = codec.to_micros(now) - _SETTLED
        leftovers = [member for member in dead if listed(member)[0] < settled]
        if leftovers and wire.following is None:  # a replica takes no writes, and learns of it from its master
            await uncancelled(asyncio.ensure_future(_clear(wire, key, leftovers)))
        size, dead = max(size, _CHUNK), []
    return rules.page(sorted(found.values(), key=rules.listing_key, reverse=True), listing.limit)


def _belongs(session: Session, listing: Listing) -> bool:
    return listing.user_id in (None, session.user_id) and listing.agent in (None, session.agent)


async def _heads(wire: Wire, session_ids: Sequence[str]) -> tuple[list[Session | None], datetime]:
    names = [wire.keys.session(session_id).head for session_id in session_ids]
    commands = [Command(name, ("GET", name)) for name in names]
    time, *answers = await wire.ask(Command(wire.keys.sessions, TIME), *commands)
    sessions = [
        None if head is None else records.session_of(session_id, head)
        for session_id, head in zip(session_ids, answers, strict=True)
    ]
    return sessions, wire.time_of(time)


async def _clear(wire: Wire, key: str, members: Sequence[str]) -> None:
    """Remove leftovers; those that became true in this very moment (an import, with its old time) are put back."""
    await wire.remove((key, member) for member in members)
    heads, _ = await _heads(wire, [listed(member)[1] for member in members])
    true = (
        member
        for member, session in zip(members, heads, strict=True)
        if session is not None and rules.listing_key(session) == listed(member)
    )
    await wire.add((key, member) for member in true)


async def purge(wire: Wire) -> int:
    """Remove what has expired since the last time; how many sessions that were, also those that Redis took away."""
    count = 0
    key = wire.keys.expiring
    (time,) = await wire.ask(Command(key, TIME))
    start, end = "-", f"[{moment(codec.to_micros(wire.time_of(time)))}\x7f"
    while start:
        (raw,) = await wire.ask(Command(key, ("ZRANGEBYLEX", key, start, end, "LIMIT", 0, _CHUNK)))
        members = [member.decode() for member in raw]
        if members:
            count += await _purge(wire, members)
        start = f"({members[-1]}" if len(members) == _CHUNK else ""
    return count


async def _purge(wire: Wire, members: Sequence[str]) -> int:
    """Remove the sessions that these entries name; leftovers are removed too, but do not count.

    A session that cannot be read is left to Redis, which takes it away at its time; its entry goes with the next purge.
    """
    names = [wire.keys.expired(member) for member in members]
    commands = [command for session_id, _ in names for command in load_commands(wire, session_id)]
    writes: list[Write] = []
    leftovers: list[Pair] = []
    for (session_id, pairs), answer in zip(names, await wire.run(commands), strict=True):
        try:
            here, version = loaded(session_id, checked(answer))
        except CorruptRecordError:
            continue
        entries = set(wire.keys.entries(here.session))
        if here.session is None or entries.issuperset(pairs):
            writes.append(Write(session_id, version, None, here.last_seq, wipe=True, delisted=pairs))
        else:
            leftovers += [pair for pair in pairs if pair not in entries]
    done = [checked(written) for written in await commit(wire, writes)]
    await wire.remove(leftovers)
    return sum(done)
