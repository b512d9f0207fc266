"""The stores of a Database: opened once, and as each event loop sees them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from dataclasses import fields
from typing import TYPE_CHECKING, TypeAlias

from agentstore.errors import ClosedError, UnavailableError
from agentstore.queue.deferred import DeferredAppends, DeferredWrites
from agentstore.queue.direct import Direct
from agentstore.queue.group import Grouping, Tally
from agentstore.stats import QueueStats

from .assembly import Settings, Side
from .replicas import Replicated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import Append, Backend, GetItems, Head, Read, StateOp
    from agentstore.records import Message, Session, StateItem
    from agentstore.stats import ReplicaStats
    from agentstore.telemetry.watch import Watch
    from agentstore.url import StoreURL

Appends: TypeAlias = "Direct[Append, list[Message]] | DeferredAppends"
Writes: TypeAlias = "Direct[StateOp, int] | DeferredWrites"


class Stack:
    """The way down for callers of one event loop: groupings over the stores, and the queues before them.

    Attributes:
        conversations, state: The stores, for calls that come alone.
        committed: The conversations without what is pending.
        append, write, read, heads, get: Where the calls go that many callers make at once.
    """

    def __init__(self, conversations: Side, state: Side, reads: Tally, deadline: float) -> None:
        self._sides = (conversations,) if state is conversations else (conversations, state)
        self.conversations, self.state = conversations.store, state.store
        self.committed = conversations.below
        self.read: Grouping[Read, list[Message]] = Grouping(
            conversations.store.read, reads, deadline, wait_in_flight=False
        )
        self.heads: Grouping[Head, Session | None] = Grouping(
            conversations.store.heads, reads, deadline, wait_in_flight=False
        )
        self.get: Grouping[GetItems, dict[str, StateItem]] = Grouping(
            state.store.get_items, reads, deadline, wait_in_flight=False
        )
        self.append = self._appends(conversations, deadline)
        self.write = _writes(state, deadline)

    def _appends(self, side: Side, deadline: float) -> Appends:
        direct: Direct[Append, list[Message]] = Direct(side.below.append, side.tally, side.bounds, deadline, side.watch)
        if side.queue is None:
            return direct
        return DeferredAppends(side.queue, direct, self.heads.submit, always=side.deferring)

    async def passed(self, session_id: str) -> None:
        """Wait until what is pending of a session has been stored: what follows needs its seqs."""
        queue = self._sides[0].queue
        if queue is not None:
            await queue.passed(queue.log, session_id)

    async def flush(self) -> None:
        """Wait until the writes that this loop has handed in, and all that were deferred, are committed or refused."""
        await self.append.flush()
        await self.write.flush()
        for side in self._sides:
            if side.queue is not None:
                await side.queue.flush()

    @property
    def waiting(self) -> int:
        """Writes that wait for their group's turn on this loop."""
        return self.append.waiting + self.write.waiting


def _writes(side: Side, deadline: float) -> Writes:
    direct: Direct[StateOp, int] = Direct(side.below.write_items, side.tally, side.bounds, deadline, side.watch)
    return direct if side.queue is None else DeferredWrites(side.queue, direct, always=side.deferring)


class Stacks:
    """Owns the backends of a Database: opens them once, gives each event loop its `Stack`, closes them.

    Args:
        conversations: Where sessions live.
        state: Where the state lives; equal to `conversations`, the two share one backend.
        settings: How they are to be used.

    Attributes:
        sides: The one or two backends, within their layers.
    """

    def __init__(self, conversations: StoreURL, state: StoreURL, settings: Settings) -> None:
        self._conversations = Side(conversations, settings, settings.replicas)
        self._state = self._conversations if state == conversations else Side(state, settings)
        self.sides = (
            (self._conversations,) if self._state is self._conversations else (self._conversations, self._state)
        )
        self._deadline = settings.retry.deadline
        self._guard = threading.Lock()
        self._stacks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Stack] = weakref.WeakKeyDictionary()
        self._reads = Tally()
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
        with self._guard:
            if self._watches is None:
                self._watches = tuple(side.begin_watch() for side in self.sides)
            return self._watches

    async def stack(self) -> Stack:
        """The running loop's stack; the first call opens the backends.

        Raises:
            ClosedError: `aclose` was called.
            UnavailableError: The backends cannot be opened, or were opened before a fork.
        """
        if not self._opened or self._closed:
            await self._open()
        if self._pid != os.getpid():
            raise UnavailableError(
                "this Database was opened before a fork, and its connections stayed with the parent process",
                hint="Make a new one with db(...) in the child, or use it there first",
                passing=False,
            )
        stack = self._stacks.get(asyncio.get_running_loop())
        return self._new_stack() if stack is None else stack

    def _new_stack(self) -> Stack:
        with self._guard:
            for loop in [loop for loop in self._stacks if loop.is_closed()]:
                del self._stacks[loop]  # what has run there would keep it alive
            stack = Stack(self._conversations, self._state, self._reads, self._deadline)
            return self._stacks.setdefault(asyncio.get_running_loop(), stack)

    async def _open(self) -> None:
        self.watches()
        # No lock: a loop that waits here for another may be one that a blocking call keeps from going on.
        for side in self.sides:
            if self._closed:
                raise ClosedError("this Database was closed")
            await side.aopen()
        self._opened, self._pid = True, os.getpid()

    async def aclose(self) -> None:
        """Commit what this loop has handed in, then let go of the backends. A second call does nothing."""
        self._closed = True
        if self._opened and self._pid != os.getpid():
            return  # they are the parent's
        stack = self._stacks.get(asyncio.get_running_loop())
        if stack is not None:
            await stack.append.flush()
            await stack.write.flush()
        async with contextlib.AsyncExitStack() as ends:  # each of them, whatever befalls the other
            for side in reversed(self.sides):
                ends.push_async_callback(side.aclose)

    def queue_stats(self) -> QueueStats:
        """What went down so far, and what waits now."""
        with self._guard:
            waiting = sum(stack.waiting for stack in self._stacks.values())
        sides = [side.queue_stats() for side in self.sides]
        sums = {item.name: sum(getattr(side, item.name) for side in sides) for item in fields(QueueStats)}
        return QueueStats(**sums | {"waiting": sums["waiting"] + waiting})

    def replicas(self) -> Sequence[ReplicaStats]:
        """Those of the conversations' backend."""
        below = self._conversations.below
        return below.replicas() if isinstance(below, Replicated) else ()

    def befell(self, event: str) -> int:
        """How often one of `agentstore.stats.EVENTS` came about."""
        return sum(getattr(side.events, event) for side in self.sides)


def abandon(sides: Iterable[Side]) -> None:
    """Let go of backends that nobody closed, without awaiting: their Database, or the interpreter, is going."""
    for side in sides:
        side.abandon()
