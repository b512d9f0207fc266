"""The stores of a Database: opened once, and as each event loop sees them."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import TYPE_CHECKING

from agentstore.drivers import registry
from agentstore.errors import ClosedError, UnavailableError
from agentstore.protocol import Append, SetItems, StateOp
from agentstore.queue.group import Grouping, Tally
from agentstore.stats import QueueStats

from .encryption import Encrypting

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentstore.keyring import Keyring
    from agentstore.options import PoolOptions
    from agentstore.protocol import Backend, ConversationStore, GetItems, Head, Read, StateStore
    from agentstore.records import Message, Session, StateItem
    from agentstore.url import StoreURL


class Stack:
    """The way down for callers of one event loop: groupings over the stores."""

    def __init__(self, conversations: ConversationStore, state: StateStore, reads: Tally, writes: Tally) -> None:
        self.conversations = conversations
        self.state = state
        self.append: Grouping[Append, list[Message]] = Grouping(conversations.append, writes, weigh=_weight)
        self.write: Grouping[StateOp, int] = Grouping(state.write_items, writes, weigh=_weight)
        self.read: Grouping[Read, list[Message]] = Grouping(conversations.read, reads, wait_in_flight=False)
        self.heads: Grouping[Head, Session | None] = Grouping(conversations.heads, reads, wait_in_flight=False)
        self.get: Grouping[GetItems, dict[str, StateItem]] = Grouping(state.get_items, reads, wait_in_flight=False)

    async def flush(self) -> None:
        """Wait until the writes that this loop has handed in are committed, or have failed."""
        await self.append.flush()
        await self.write.flush()


class Stacks:
    """Owns the backends of a Database: opens them once, gives each event loop its `Stack`, closes them.

    Args:
        conversations: Where sessions live.
        state: Where the state lives; equal to `conversations`, the two share one backend.
        pool: The settings of their connections.
        keyring: Encrypts what goes to them; None stores it as it is.
    """

    def __init__(
        self, conversations: StoreURL, state: StoreURL, pool: PoolOptions, keyring: Keyring | None = None
    ) -> None:
        def load(url: StoreURL) -> Backend:
            driver = registry.load(url, pool)
            return driver if keyring is None else Encrypting(driver, keyring)

        self._conversations = load(conversations)
        self._state = self._conversations if state == conversations else load(state)
        self._guard = threading.Lock()
        self._stacks: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Stack] = weakref.WeakKeyDictionary()
        self._reads, self._writes = Tally(), Tally()
        self._pid = 0
        self._opened = False
        self._closed = False

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The one or two backends."""
        return (self._conversations,) if self._state is self._conversations else (self._conversations, self._state)

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
            )
        stack = self._stacks.get(asyncio.get_running_loop())
        return self._new_stack() if stack is None else stack

    def _new_stack(self) -> Stack:
        with self._guard:
            for loop in [loop for loop in self._stacks if loop.is_closed()]:
                del self._stacks[loop]  # what has run there would keep it alive
            stack = Stack(self._conversations, self._state, self._reads, self._writes)
            return self._stacks.setdefault(asyncio.get_running_loop(), stack)

    async def _open(self) -> None:
        # No lock: a loop that waits here for another may be one that a blocking call keeps from going on.
        for backend in self.backends:
            if self._closed:
                raise ClosedError("this Database was closed")
            await backend.aopen()
        self._opened, self._pid = True, os.getpid()

    async def aclose(self) -> None:
        """Commit what this loop has handed in, then let go of the backends. A second call does nothing."""
        self._closed = True
        if self._opened and self._pid != os.getpid():
            return  # they are the parent's
        stack = self._stacks.get(asyncio.get_running_loop())
        if stack is not None:
            await stack.flush()
        for backend in self.backends:
            await backend.aclose()

    def queue_stats(self) -> QueueStats:
        """What went down so far, and what waits now on any loop."""
        with self._guard:
            waiting = sum(stack.append.waiting + stack.write.waiting for stack in self._stacks.values())
        return QueueStats(waiting, self._writes.groups, self._writes.operations)


def close_at_exit(backends: Iterable[Backend]) -> None:
    """Let go of backends that nobody closed, without awaiting: their Database, or the interpreter, is going."""
    for backend in backends:
        backend.close_at_exit()


def _weight(op: Append | StateOp) -> int:
    return op.size if isinstance(op, (Append, SetItems)) else 0
