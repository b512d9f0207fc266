"""What is measured. Each workload prepares what it needs, and gives its cases one after the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from agentstore.agent import Agent

from .kit import Kit, turn
from .measure import Case, Side
from .sides import Accepts, Appends, Calls, Mixes, Reads, Syncs, Values

if TYPE_CHECKING:
    from agentstore.records import Message

    from .kit import Hand
    from .sides import Store

Cases: TypeAlias = AsyncIterator[Case]

_OURS = "agentstore"
_ONE_EACH = "by hand, one commit per turn"
_ONE_SELECT = "by hand, one select each"
_READ, _TAIL = 50, 20
_LONG, _SHORT = 20_000, 200
_STEPS = 4  # from one point of a plot's curve to the next, the number of callers times this
_MODEL_SECONDS = 0.02


async def append(kit: Kit) -> Cases:
    """Turns of many sessions at once, each durable before it returns."""
    sessions, turns = kit.options.sessions or 64, kit.options.turns or 50
    if kit.options.durability != "commit":
        yield _acceptance(kit)
    sides = [_appends(kit, "append")]
    if kit.hand is not None:
        raw = kit.hand.raw
        sides += [
            _by_hand(kit, kit.hand, "by hand, group commit", "grouped", kit.hand.grouped.append),
            _by_hand(kit, kit.hand, _ONE_EACH, "each", raw.append),
            Appends("bare insert", raw.insert, None, lambda s, n: f"{kit.name}-bare-{s}-{n}", judged=False),
        ]
    stored = "" if kit.options.durability == "commit" else ", all stored"
    yield Case(f"{sessions} sessions at once{stored}", "turns", sides, sessions, turns)


def _acceptance(kit: Kit) -> Case:
    """What a turn costs its caller when another thread stores it, beside the least that anybody does with it."""
    ours = Accepts(
        _OURS, kit.database.append, kit.count, lambda s, _: kit.session("accept", s), flush=kit.database.flush
    )
    other: Side
    if kit.options.durability == "memory":
        other = Calls("two messages made, and json.dumps", _dump)
    else:
        other = Syncs("the same bytes, and fdatasync", kit.folder)
    return Case("a turn accepted", "turns", [ours, other], 1, kit.options.turns or 1000, "time")


async def _dump() -> None:
    for message in turn():
        json.dumps({"role": message.role, "content": message.content})


async def sequential(kit: Kit) -> Cases:
    """Turns of one session, each durable before the next."""
    sides = [_appends(kit, "sequential")]
    if kit.hand is not None:
        sides.append(_by_hand(kit, kit.hand, _ONE_EACH, "sequential", kit.hand.raw.append))
    yield Case("one session", "turns", sides, 1, kit.options.turns or 300)


async def resume(kit: Kit) -> Cases:
    """The newest 50 messages of sessions, as a process needs them that goes on with a conversation."""
    readers, reads = kit.options.sessions or 32, kit.options.turns or 30
    length = kit.options.messages or _SHORT
    sessions = [kit.session("read", n) for n in range(readers)]
    for session in sessions:
        await kit.fill(session, length)
    sides = [Reads(_OURS, kit.last, sessions, min(_READ, length))]
    if kit.hand is not None:
        by_hand = [f"{kit.name}-hand-read-{n}" for n in range(readers)]
        for session in by_hand:
            await kit.fill_by_hand(kit.hand, session, length)
        sides.append(Reads(_ONE_SELECT, kit.hand.raw.last, by_hand, min(_READ, length)))
    yield Case("one at a time", "loads", sides, 1, 10 * reads, length=length)
    yield Case(f"{readers} at once", "loads", sides, readers, reads, length=length)


async def long(kit: Kit) -> Cases:
    """What the length of a session costs."""
    length, turns = kit.options.messages or _LONG, kit.options.turns or 200
    sessions = [(length, kit.session("long")), (_SHORT, kit.session("short"))]
    for count, session in sessions:
        await kit.fill(session, count)
    reads = [Reads(f"of {count:,}", kit.last, [session], min(_TAIL, length)) for count, session in sessions]
    yield Case(f"newest {_TAIL} messages", "loads", reads, 1, turns, "time", length)
    appends = [_appends_to(kit, f"to {count:,}", session, count) for count, session in sessions]
    yield Case("a turn appended", "turns", appends, 1, turns, "time", length)


async def state(kit: Kit) -> Cases:
    """A value set, and read again."""
    callers, pairs = kit.options.sessions or 64, kit.options.turns or 50
    sides = [_values(kit)]
    if kit.hand is not None:
        sides.append(_values_by_hand(kit, kit.hand))
    yield Case("one at a time", "set+get", sides, 1, 5 * pairs)
    yield Case(f"{callers} at once", "set+get", sides, callers, pairs)


async def agent(kit: Kit) -> Cases:
    """Turns of an agent whose sessions have 100 messages, and whose model takes 20 ms: what the store adds."""
    callers, turns, length = kit.options.sessions or 16, kit.options.turns or 20, kit.options.messages or 100
    sessions = [kit.session("chat", n) for n in range(callers)]
    for session in sessions:
        await kit.fill(session, length)
    answering = Agent("bench", model=_model, db=kit.database, history_limit=length)

    async def chat(session: str, messages: list[Message]) -> None:
        await answering.achat(messages[0].content, session_id=session)

    chats = Appends("agent", chat, kit.count, lambda _, n: sessions[n], already=length)
    sides = [chats, Calls("its model alone", lambda: _model([]))]
    yield Case(f"{callers} sessions at once", "turns", sides, callers, turns, "added", length)


async def _model(messages: list[Message]) -> Message:
    del messages
    await asyncio.sleep(_MODEL_SECONDS)
    return turn()[1]


async def mixed(kit: Kit) -> Cases:
    """What agents and their pages ask of a store: the newest 50 messages twice, a turn, a value set and read."""
    callers, steps = kit.options.sessions or 32, kit.options.turns or 20
    sessions = [kit.session("mixed", n) for n in range(callers)]
    for session in sessions:
        await kit.fill(session, _SHORT)
    appends = Appends(_OURS, kit.database.append, kit.count, lambda _, n: sessions[n], already=_SHORT)
    sides = [Mixes(_OURS, kit.last, appends, _values(kit), sessions)]
    if kit.hand is not None:
        sides.append(await _mixes_by_hand(kit, kit.hand, callers))
    yield Case(f"{callers} sessions at once", "steps", sides, callers, steps, length=_SHORT)


# --- for the curves of a plot ---


async def concurrency(kit: Kit) -> Cases:
    """Turns of ever more sessions at once."""
    callers, most = 1, kit.options.sessions or 64
    while callers <= most:
        sides = [_appends(kit, f"of{callers}")]
        if kit.hand is not None:
            sides += [
                _by_hand(kit, kit.hand, "by hand, group commit", f"grouped{callers}", kit.hand.grouped.append),
                _by_hand(kit, kit.hand, _ONE_EACH, f"each{callers}", kit.hand.raw.append),
            ]
        yield Case(f"{callers} at once", "turns", sides, callers, kit.options.turns or max(20, 640 // callers))
        callers *= _STEPS


async def length(kit: Kit) -> Cases:
    """The newest 50 messages of ever longer sessions, and turns appended to them."""
    most, turns = kit.options.messages or 10_000, kit.options.turns or 100
    count = min(100, most)
    while count <= most:
        session, by_hand = kit.session("length", count), f"{kit.name}-hand-length-{count}"
        await kit.fill(session, count)
        reads, appends = (
            [Reads(_OURS, kit.last, [session], min(_READ, count))],
            [_appends_to(kit, _OURS, session, count)],
        )
        if kit.hand is not None:
            await kit.fill_by_hand(kit.hand, by_hand, count)
            reads.append(Reads(_ONE_SELECT, kit.hand.raw.last, [by_hand], min(_READ, count)))
            appends.append(_appends_to(kit.hand, _ONE_EACH, by_hand, count))
        yield Case(f"newest {_READ} of {count:,}", "loads", reads, 1, turns, length=count)
        yield Case(f"a turn appended to {count:,}", "turns", appends, 1, turns, length=count)
        count *= 10


# --- sides ---


def _appends(kit: Kit, what: str) -> Appends:
    flush = None if kit.options.durability == "commit" else kit.database.flush
    return Appends(_OURS, kit.database.append, kit.count, lambda s, n: kit.session(what, s, n), flush=flush)


def _appends_to(to: Kit | Hand, name: str, session: str, already: int) -> Appends:
    store = to.database.append if isinstance(to, Kit) else to.raw.append
    return Appends(name, store, to.count, lambda _s, _n: session, already=already)


def _by_hand(kit: Kit, hand: Hand, name: str, what: str, store: Store) -> Appends:
    return Appends(name, store, hand.count, lambda s, n: f"{kit.name}-hand-{what}-{s}-{n}")


def _values(kit: Kit) -> Values:
    scope = kit.database.state.scope(kit.namespace)
    return Values(_OURS, scope.set, scope.get)


def _values_by_hand(kit: Kit, hand: Hand) -> Values:
    space = f"{kit.name}-hand"
    return Values(
        "by hand, one statement each",
        lambda key, value: hand.raw.set(space, key, value),
        lambda key: hand.raw.get(space, key),
    )


async def _mixes_by_hand(kit: Kit, hand: Hand, callers: int) -> Mixes:
    sessions = [f"{kit.name}-hand-mixed-{n}" for n in range(callers)]
    for session in sessions:
        await kit.fill_by_hand(hand, session, _SHORT)
    appends = Appends("by hand", hand.grouped.append, hand.count, lambda _, n: sessions[n], already=_SHORT)
    return Mixes("by hand, turns in groups", hand.raw.last, appends, _values_by_hand(kit, hand), sessions)


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of work.

    Attributes:
        cases: Prepares and gives what is to be measured.
        by_hand: Whether the bare driver has a part in it.
    """

    cases: Callable[[Kit], Cases]
    by_hand: bool = True


WORKLOADS = {
    "append": Workload(append),
    "sequential": Workload(sequential),
    "resume": Workload(resume),
    "long": Workload(long, by_hand=False),
    "state": Workload(state),
    "agent": Workload(agent, by_hand=False),
    "mixed": Workload(mixed),
}

SWEEPS = {"concurrency": Workload(concurrency), "length": Workload(length)}
