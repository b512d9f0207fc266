"""Those who wait for their operation in a `agentstore.queue.group.Grouping`, and how they are told."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentstore.concurrency import LATE
from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    import asyncio

    from agentstore.protocol import Outcome

Op = TypeVar("Op")
Out = TypeVar("Out")


class Waiting(Generic[Op, Out]):
    """An operation with its caller, who waits on the very future: a shield before it would double what waiting costs.

    A cancellation ends that future. A caller who must wait on gets another.

    Attributes:
        op: The operation.
        future: Where its caller waits.
        since: Since when.
        settled: Nothing more will become of it here.
    """

    __slots__ = ("future", "op", "settled", "since")

    def __init__(self, op: Op, future: asyncio.Future[Out]) -> None:
        self.op = op
        self.future = future
        self.since = monotonic()
        self.settled = False

    def settle(self, outcome: Outcome[Out] | BaseException) -> None:
        """Tell the caller, who may have been told before, or have been cancelled."""
        if self.settled:
            return
        self.settled = True
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
            self.future.exception()  # a caller that has gone needs no "never retrieved"
        else:
            self.future.set_result(outcome)

    def cancel(self) -> None:
        """Let the caller go."""
        self.settled = True
        self.future.cancel()


class Lone:
    """A caller who makes its call itself, as there is nobody else."""

    __slots__ = ("late", "settled", "since", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.since = monotonic()
        self.settled = False
        self.late: UnavailableError | None = None

    def settle(self, late: UnavailableError) -> None:
        """Tell it that it is late: what it waits for is left to itself."""
        if not self.settled:
            self.settled, self.late = True, late
            self.task.cancel(LATE)


def late(deadline: float, *, sent: bool) -> UnavailableError:
    """What somebody is told who has waited for the deadline, in seconds."""
    if not sent:
        return UnavailableError(
            f"what went before it had no answer, and after {deadline:g} s it was given up without being tried",
            hint="Is the server there, and the network?",
            passing=False,
            unsent=True,
        )
    return UnavailableError(
        f"there was no answer within {deadline:g} s: what was being written may be stored or not",
        hint="Is the server there, and the network? A repeated append stores nothing twice",
        passing=False,
    )
