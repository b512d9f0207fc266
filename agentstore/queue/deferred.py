"""How a write of one event loop gets to the write-behind queue, or past it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore.errors import PoolTimeoutError, UnavailableError
from agentstore.protocol import SetItems
from agentstore.records import copied, copy_json, numbered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.protocol import Append, Head, StateOp
    from agentstore.records import Message, Session

    from .direct import Direct
    from .write_queue import WriteQueue


class DeferredAppends:
    """Appends to conversations.

    Args:
        queue: Where they wait.
        direct: The way past it.
        head: Reads a session's head, for the first write to it.
        always: Whether every append that can be deferred is; else only while the backend is down, and behind what
            has been deferred.
    """

    def __init__(
        self,
        queue: WriteQueue,
        direct: Direct[Append, list[Message]],
        head: Callable[[Head], Awaitable[Session | None]],
        *,
        always: bool,
    ) -> None:
        self._queue = queue
        self._direct = direct
        self._head = head
        self._always = always

    async def submit(self, op: Append) -> list[Message]:
        """Store or accept an append; accepted messages have no seq."""
        queue = self._queue
        if op.expected_seq is not None:
            await queue.passed(queue.log, op.session_id)
            stored = await self._direct.submit(op)
            queue.known.stored(op.session_id)
            return stored
        if not self._always and not queue.defers(queue.log, op.session_id):
            try:
                return await self._direct.submit(op)
            except PoolTimeoutError:  # the backend is busy, not down
                raise
            except UnavailableError as error:
                queue.unreachable(error)
        await queue.known.admit(op, self._head)
        messages = op.messages
        if not all(message.seq is None for message in messages):
            messages = tuple(numbered(message, None) for message in messages)
        own = replace(op, messages=tuple(map(copied, messages)), metadata=copy_json(op.metadata))
        try:
            await queue.accept(queue.log, op.session_id, own)
        except BaseException:
            if op.session_id not in queue.log.by_key:  # what was noted of it may never be so
                queue.known.forget(op.session_id)
            raise
        return list(messages)

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn on this loop."""
        return self._direct.waiting

    async def flush(self) -> None:
        """Wait until all that this loop has handed in has ended."""
        await self._direct.flush()


class DeferredWrites:
    """Writes of state, likewise; only a plain set can be deferred, for others answer with what they met."""

    def __init__(self, queue: WriteQueue, direct: Direct[StateOp, int], *, always: bool) -> None:
        self._queue = queue
        self._direct = direct
        self._always = always

    async def submit(self, op: StateOp) -> int:
        """Store or accept a write; an accepted one has no version: 0."""
        queue = self._queue
        if not isinstance(op, SetItems) or op.if_version is not None:
            await queue.passed(queue.state, op.namespace)
            return await self._direct.submit(op)
        if not self._always and not queue.defers(queue.state, op.namespace):
            try:
                return await self._direct.submit(op)
            except PoolTimeoutError:
                raise
            except UnavailableError as error:
                queue.unreachable(error)
        await queue.accept(queue.state, op.namespace, replace(op, items=copy_json(dict(op.items))))
        return 0

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn on this loop."""
        return self._direct.waiting

    async def flush(self) -> None:
        """Wait until all that this loop has handed in has ended."""
        await self._direct.flush()
