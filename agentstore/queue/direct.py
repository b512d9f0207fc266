"""A write that its caller waits for: committed in place, in the next group of its loop, within the queue's bounds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentstore.protocol import Append, SetItems, StateOp

from .group import Grouping
from .halving import outcomes

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome
    from agentstore.telemetry import Caller
    from agentstore.telemetry.watch import Watch

    from .bounds import Bounds
    from .group import Tally

Op = TypeVar("Op", bound="Append | StateOp")
Out = TypeVar("Out")


class Direct(Generic[Op, Out]):
    """Groups the writes of one event loop.

    Args:
        run: Carries out a batch.
        tally: Counts what was carried out.
        bounds: How much may be under way at once, shared by all loops.
        deadline: Seconds that a write in flight is waited for.
        watch: Tells OpenTelemetry of each group.
        in_place, width: As in `Grouping`.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out]]]],
        tally: Tally,
        bounds: Bounds,
        deadline: float,
        watch: Watch | None = None,
        *,
        in_place: bool = False,
        width: int = 1,
    ) -> None:
        each = partial(outcomes, run)
        grouping: Grouping[Any, Out]
        self._submit: Callable[[Op], Awaitable[Out]]
        if watch is None:
            grouping = Grouping(each, tally, deadline, weigh=_size, in_place=in_place, width=width, key=_key)
            self._submit = grouping.submit
        else:
            watched = _Watched(each, watch)
            grouping = Grouping(
                watched.run, tally, deadline, weigh=watched.size, in_place=in_place, width=width, key=watched.key
            )
            self._submit = lambda op: grouping.submit((op, watch.caller()))
        self._grouping = grouping
        self._bounds = bounds

    async def submit(self, op: Op) -> Out:
        """Carry out a write in the next group.

        Raises:
            QueueFullError: There was no room within ``QueueOptions.timeout``.
        """
        count, size = _count(op), _size(op)
        if not self._bounds.enter_at_once(count, size):
            await self._bounds.enter(count, size)
        try:
            return await self._submit(op)
        finally:
            self._bounds.leave(count, size)

    @property
    def waiting(self) -> int:
        """Operations that wait for their group's turn."""
        return self._grouping.waiting

    async def flush(self) -> None:
        """Wait until all that was submitted before has ended."""
        await self._grouping.flush()


class _Watched(Generic[Op, Out]):
    """Carries out batches of writes and their callers."""

    def __init__(
        self, run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out] | Exception]]], watch: Watch
    ) -> None:
        self._run = run
        self._watch = watch

    async def run(self, batch: Sequence[tuple[Op, Caller]]) -> Sequence[Outcome[Out] | Exception]:
        ops = [op for op, _ in batch]
        callers = [caller for _, caller in batch]
        return await self._watch.commit(lambda: self._run(ops), callers, sum(map(_size, ops)))

    def size(self, pair: tuple[Op, Caller]) -> int:
        return _size(pair[0])

    def key(self, pair: tuple[Op, Caller]) -> object:
        return _key(pair[0])


def _count(op: Append | StateOp) -> int:
    return len(op.messages) or 1 if isinstance(op, Append) else 1


def _size(op: Append | StateOp) -> int:
    return op.size if isinstance(op, (Append, SetItems)) else 0


def _key(op: Append | StateOp) -> object:
    return op.session_id if isinstance(op, Append) else op.namespace
