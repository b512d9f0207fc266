"""The stores of a Database: opened once, and as each event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from dataclasses import fields
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from agentstore.errors import ClosedError, UnavailableError
from agentstore.queue.deferred import DeferredAppends, DeferredWrites
from agentstore.queue.direct import Direct
from agentstore.queue.group import Grouping, Tally
from agentstore.stats import QueueStats

from .assembly import Settings, Side

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Append, Backend, GetItems, Head, Outcome, Read, StateOp
    from agentstore.records import Message, Session, StateItem
    from agentstore.stats import ReplicaStats
    from agentstore.telemetry.watch import Watch
    from agentstore.url import StoreURL

Op = TypeVar("Op", bound="Append | StateOp")
Out = TypeVar("Out")
Run: TypeAlias = "Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out]]]]"
Appends: TypeAlias = "Direct[Append, list[Message]] | DeferredAppends"
Writes: TypeAlias = "Direct[StateOp, int] | DeferredWrites"


class Stack:
    """The way down for callers of one event loop: groupings over the stores, and the queues before them.

    Each call waits first for what other Databases of the process, set up differently, have pending of its session; not
    in its group, where others would wait with it.

    Attributes:
        conversations, state: The stores, for calls that come alone.
        committed: The conversations without what is pending.
    """

    def __init__(self, conversations: Side, state: Side, reads: Tally, deadline: float) -> None:
        self._sides = (conversations, state)
        self.conversations, self.state = conversations.store, state.store
        self.committed = conversations.below
        here, there = conversations.spec.in_place, state.spec.in_place
        self._reads: Grouping[Read, list[Message]] = Grouping(
            conversations.overlaid.read, reads, deadline, wait_in_flight=False, in_place=here
        )
        self._heads: Grouping[Head, Session | None] = Grouping(
            conversations.overlaid.heads, reads, deadline, wait_in_flight=False, in_place=here
        )
        self._gets: Grouping[GetItems, dict[str, StateItem]] = Grouping(
            state.overlaid.get_items, reads, deadline, wait_in_flight=False, in_place=there
        )
        self._appends = self._way_of_appends(conversations, deadline)
        self._writes = _way_of_writes(state, deadline)

    def _way_of_appends(self, side: Side, deadline: float) -> Appends:
        direct: Direct[Append, list[Message]] = _direct(side, side.below.append, deadline)
        if side.queue is None:
            return direct
        return DeferredAppends(side.queue, direct, self._heads.submit, always=side.deferring)

    async def append(self, op: Append) -> list[Message]:
        """Store or accept an append; accepted messages have no seq."""
        await self._before(op.session_id)
        return await self._appends.submit(op)

    async def read(self, op: Read) -> list[Message]:
        """Read messages, together with others who read."""
        await self._before(op.session_id)
        return await self._reads.submit(op)

    async def head(self, op: Head) -> Session | None:
        """Look at a session, likewise."""
        await self._before(op.session_id)
        return await self._heads.submit(op)

    async def write(self, op: StateOp) -> int:
        """Carry out a write of state, or accept it: 0."""
        await self._before_state(op.namespace)
        return await self._writes.submit(op)

    async def get(self, op: GetItems) -> dict[str, StateItem]:
        """Look up keys of the state, together with others who do."""
        await self._before_state(op.namespace)
        return await self._gets.submit(op)

    async def _before(self, session_id: str) -> None:
        side = self._sides[0]
        await side.located.place.sessions_passed([session_id], side.queue)

    async def _before_state(self, namespace: str) -> None:
        side = self._sides[1]
        await side.located.place.namespaces_passed([namespace], side.queue)

    async def passed(self, session_id: str) -> None:
        """Wait until what is pending of a session has been stored: what follows needs its seqs."""
        await self._sides[0].located.place.sessions_passed([session_id])

    async def flush(self) -> None:
        """Wait until the writes that this loop has handed in, and all that were deferred, are committed or refused."""
        await self.settled()
        for side in set(self._sides):
            if side.queue is not None:
                await side.queue.flush()

    async def settled(self) -> None:
        """Wait until the writes that this loop has handed in have ended."""
        await self._appends.flush()
        await self._writes.flush()

    @property
    def waiting(self) -> int:
        """Writes that wait for their group's turn on this loop."""
        return self._appends.waiting + self._writes.waiting


def _way_of_writes(side: Side, deadline: float) -> Writes:
    direct: Direct[StateOp, int] = _direct(side, side.below.write_items, deadline)
    return direct if side.queue is None else DeferredWrites(side.queue, direct, always=side.deferring)


def _direct(side: Side, run: Run[Op, Out], deadline: float) -> Direct[Op, Out]:
    width, in_place = side.spec.commits, side.spec.in_place
    return Direct(run, side.tally, side.bounds, deadline, side.watch, in_place=in_place, width=width)


class Stacks:
    """Owns the backends of a Database: opens them once, gives each event loop its `Stack`, closes them.

    Databases of one process that are set up alike share them, where one could not see else what another has accepted.

    Args:
        conversations: Where sessions live.
        state: Where the state lives; equal to `conversations`, the two share one backend.
        settings: How they are to be used.

    Attributes:
        sides: The one or two backends, within their layers.
    """

    def __init__(self, conversations: StoreURL, state: StoreURL, settings: Settings) -> None:
        side = Side(conversations, settings, settings.replicas)
        self.sides: tuple[Side, ...] = (side,) if state == conversations else (side, Side(state, settings))
        self._deadline = settings.retry.deadline
        self._guard = threading.Lock()
        self._stacks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Stack] = weakref.WeakKeyDictionary()
        self._reads = Tally()
        self._user = object()
        self._pid = 0
        self._opened = False
        self._closed = False
        self._watches: tuple[Watch | None, ...] | None = None

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The one or two stores."""
        return tuple(side.store for side in self.sides)

    def watches(self) -> tuple[Watch | None, ...]:
        """Who tells OpenTelemetry of each side; found at the first use, for a program records before that."""
        self._join()
        with self._guard:
            if self._watches is None:
                self._watches = tuple(side.begin_watch() for side in self.sides)
            return self._watches

    def _join(self) -> None:
        """Share what others have open; not before the first use, for what was shared cannot be forked."""
        with self._guard:
            if not self._pid and not self._closed:
                self._pid = os.getpid()
                self.sides = tuple(side.located.place.join(side, self._user) for side in self.sides)

    async def stack(self) -> Stack:
        """The running loop's stack; the first call opens the backends.

        Raises:
            ClosedError: `aclose` was called.
            UnavailableError: The backends cannot be opened, or were opened before a fork.
        """
        if not self._opened or self._closed:
            await self._open()
        self._check_here()
        stack = self._stacks.get(asyncio.get_running_loop())
        return self._new_stack() if stack is None else stack

    def _check_here(self) -> None:
        if self._pid != os.getpid():
            raise UnavailableError(
                "this Database was opened before a fork, and its connections stayed with the parent process",
                hint="Make a new one with db(...) in the child, or use it there first",
                passing=False,
            )

    def _new_stack(self) -> Stack:
        with self._guard:
            for loop in [loop for loop in self._stacks if loop.is_closed()]:
                del self._stacks[loop]  # what has run there would keep it alive
            stack = Stack(self.sides[0], self.sides[-1], self._reads, self._deadline)
            return self._stacks.setdefault(asyncio.get_running_loop(), stack)

    async def _open(self) -> None:
        self.watches()
        # No lock: a loop that waits here for another may be one that a blocking call keeps from going on.
        for side in self.sides:
            if self._closed:
                raise ClosedError("this Database was closed")
            self._check_here()
            await side.aopen()
        self._opened = True

    async def aclose(self) -> None:
        """Commit what this loop has handed in, then let go of the backends. A second call does nothing."""
        with self._guard:
            self._closed = True
        if self._pid not in {0, os.getpid()}:
            return  # they are the parent's
        stack = self._stacks.get(asyncio.get_running_loop())
        if stack is not None:
            await stack.settled()
        async with contextlib.AsyncExitStack() as ends:  # each of them, whatever befalls the other
            for side in reversed(self.sides):
                ends.push_async_callback(side.aclose if self._leave(side) else side.settled)

    def abandon(self) -> None:
        """Let go of the backends without awaiting: the Database was dropped, or the interpreter is ending."""
        for side in self.sides if self._pid else ():
            if self._pid != os.getpid() or self._leave(side):
                side.abandon()

    def _leave(self, side: Side) -> bool:
        """Whether nobody uses it any more."""
        return side.located.place.leave(side, self._user)

    def queue_stats(self) -> QueueStats:
        """What went down so far, and what waits now."""
        with self._guard:
            waiting = sum(stack.waiting for stack in self._stacks.values())
        sides = [side.queue_stats() for side in self.sides]
        sums = {item.name: sum(getattr(side, item.name) for side in sides) for item in fields(QueueStats)}
        return QueueStats(**sums | {"waiting": sums["waiting"] + waiting})

    def replicas(self) -> Sequence[ReplicaStats]:
        """Those of the conversations' backend."""
        replicated = self.sides[0].replicated
        return () if replicated is None else [replica.stats() for replica in replicated.replicas]

    def befell(self, event: str) -> int:
        """How often one of `agentstore.stats.EVENTS` came about."""
        return sum(getattr(side.events, event) for side in self.sides)
