"""A call, or a batch of them, that is tried several times: who is served, who is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from agentstore.concurrency import outcome_despite
from agentstore.errors import AgentstoreError, PoolTimeoutError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome

    from .breaker import Breaker

In = TypeVar("In")
Out = TypeVar("Out")


class Job(Generic[In, Out]):
    """A batch on its way: what each operation came to, and which are worth another attempt.

    Args:
        function: Carries out operations.
        batch: All of them.
        again: Whether an operation may be repeated though it may have been carried out.
        breaker: Counts what is answered meanwhile.

    Attributes:
        outcomes: The latest of each.
        tried: There are outcomes.
        left: The places of those that the next attempt is for.
        raised: What the latest attempt raised, if it was about the whole batch.
        heard: Some operation was answered by the backend, be it with an error.
        silence: An error of which the backend knows nothing.
    """

    def __init__(
        self,
        function: Callable[[Sequence[In]], Awaitable[list[Outcome[Out]]]],
        batch: Sequence[In],
        again: Callable[[In], bool],
        breaker: Breaker,
    ) -> None:
        self._function = function
        self._batch = batch
        self._again = again
        self._breaker = breaker
        self._answers = breaker.answers
        self.outcomes: list[Any] = [None] * len(batch)
        self.tried = False
        self.left: Sequence[int] = range(len(batch))
        self.raised: AgentstoreError | None = None
        self.heard = False
        self.silence: UnavailableError | None = None

    async def attempt(self) -> None:
        """Try what is left, in order."""
        self._answers = self._breaker.answers
        try:
            outcomes = await self._function([self._batch[index] for index in self.left])
        except AgentstoreError as error:
            self.take_error(error)
        else:
            self.take(outcomes)

    def begun(self, answers: int) -> Job[In, Out]:
        """The first attempt was made elsewhere, when the breaker had counted so many answers."""
        self._answers = answers
        return self

    def take_error(self, error: AgentstoreError) -> None:
        """An attempt has raised this."""
        whole = len(self.left) == len(self._batch)
        self.take([error] * len(self.left))
        self.raised = error if whole else None

    def take(self, outcomes: Sequence[Outcome[Out]]) -> None:
        """An attempt has come to this."""
        left = []
        for index, outcome in zip(self.left, outcomes, strict=True):
            self.outcomes[index] = outcome
            if isinstance(outcome, UnavailableError):
                if outcome.passing and (outcome.unsent or self._again(self._batch[index])):
                    left.append(index)
                if isinstance(outcome, PoolTimeoutError) or (outcome.passing and not outcome.answered):
                    self.silence = outcome
                    continue
            self.heard = True
        self.tried, self.left, self.raised = True, left, None

    @property
    def is_lost(self) -> bool:
        """Whether the backend must be down: nothing was answered here, nor elsewhere since the latest attempt began."""
        silent = self.silence is not None and not self.heard
        return silent and bool(self.left) and self._breaker.answers == self._answers

    def keep(self, cancellation: asyncio.CancelledError) -> None:
        """Let the cancellation tell all outcomes, as `uncancelled` lets it tell those of the attempt it came upon."""
        done = outcome_despite(cancellation)
        if done is not None and not done.cancelled():
            error = done.exception()
            if error is None:
                self.take(done.result())
            elif isinstance(error, AgentstoreError):
                self.take_error(error)
        if self.tried:
            everything: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            everything.set_result(self.outcomes)
            cancellation.done_despite = everything  # type: ignore[attr-defined]
