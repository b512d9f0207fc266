"""How a write of one event loop gets to the write-behind queue, or past it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from agentstore.errors import PoolTimeoutError, UnavailableError
from agentstore.protocol import Append, SetItems, StateOp
from agentstore.records import copied, copy_json, numbered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.protocol import Head
    from agentstore.records import Message, Session

    from .direct import Direct
    from .pending import Lanes
    from .write_queue import WriteQueue

Op = TypeVar("Op", bound="Append | StateOp")
Out = TypeVar("Out")


class _Deferred(Generic[Op, Out]):
    """Writes of one primitive.

    Args:
        queue: Where they wait.
        lanes: In which of its lanes.
        direct: The way past it.
        always: Whether every write that can be deferred is; else only while the backend is down, and behind what has
            been deferred.
    """

    def __init__(self, queue: WriteQueue, lanes: Lanes, direct: Direct[Op, Out], *, always: bool) -> None:
        self._queue = queue
        self._lanes = lanes
        self._direct = direct
        self._always = always

    async def _behind(self, key: str, op: Op) -> Out:
        """The backend's answer to a write that needs one, after what is pending of its session or namespace."""
        await self._queue.passed(self._lanes, key)
        return await self._direct.submit(op)

    async def _at_once(self, key: str, op: Op) -> Out | None:
        """The backend's answer to any other; None if the write is to be deferred."""
        if self._always or self._queue.defers(self._lanes, key):
            return None
        try:
            return await self._direct.submit(op)
        except PoolTimeoutError:  # the backend is busy, not down
            raise
        except UnavailableError as error:
            self._queue.unreachable(error)
            return None

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn on this loop."""
        return self._direct.waiting

    async def flush(self) -> None:
        """Wait until all that this loop has handed in has ended."""
        await self._direct.flush()


class DeferredAppends(_Deferred[Append, "list[Message]"]):
    """Appends to conversations; ``head`` reads a session's head, for the first write to it."""

    def __init__(
        self,
        queue: WriteQueue,
        direct: Direct[Append, list[Message]],
        head: Callable[[Head], Awaitable[Session | None]],
        *,
        always: bool,
    ) -> None:
        super().__init__(queue, queue.log, direct, always=always)
        self._head = head

    async def submit(self, op: Append) -> list[Message]:
        """Store or accept an append; accepted messages have no seq."""
        queue = self._queue
        if op.expected_seq is not None:
            stored = await self._behind(op.session_id, op)
            queue.known.stored(op.session_id)
            return stored
        at_once = await self._at_once(op.session_id, op)
        if at_once is not None:
            return at_once
        await queue.known.admit(op, self._head)
        messages = op.messages
        if not all(message.seq is None for message in messages):
            messages = tuple(numbered(message, None) for message in messages)
        own = replace(op, messages=tuple(map(copied, messages)), metadata=copy_json(op.metadata))
        try:
            await queue.accept(self._lanes, op.session_id, own)
        except BaseException:
            if op.session_id not in self._lanes.by_key:  # what was noted of it may never be so
                queue.known.forget(op.session_id)
            raise
        return list(messages)


class DeferredWrites(_Deferred[StateOp, int]):
    """Writes of state; only a plain set can be deferred, for others answer with what they met."""

    def __init__(self, queue: WriteQueue, direct: Direct[StateOp, int], *, always: bool) -> None:
        super().__init__(queue, queue.state, direct, always=always)

    async def submit(self, op: StateOp) -> int:
        """Store or accept a write; an accepted one has no version: 0."""
        if not isinstance(op, SetItems) or op.if_version is not None:
            return await self._behind(op.namespace, op)
        at_once = await self._at_once(op.namespace, op)
        if at_once is not None:
            return at_once
        await self._queue.accept(self._lanes, op.namespace, replace(op, items=copy_json(dict(op.items))))
        return 0
