"""What fails in passing is tried again; what is known to be down is not waited for.

The way of a call that succeeds is one plain await. Only the first failure brings in tenacity, which knows when to try
again and when to stop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from agentstore.concurrency import outcome_despite
from agentstore.errors import AgentstoreError, PoolTimeoutError, UnavailableError
from agentstore.protocol import Append, Expire, SetItems

from .base import Layer
from .breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tenacity import RetryCallState

    from agentstore.findings import Finding
    from agentstore.options import RetryOptions
    from agentstore.protocol import Backend, Change, GetItems, Head, Listing, Outcome, Read, Scan, StateOp
    from agentstore.records import Message, Page, Session, StateItem
    from agentstore.stats import Events

    from .breaker import Probe

In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")
T = TypeVar("T")

_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds; as much again is added at random


class Retrying(Layer):
    """Tries calls again that may be repeated, or that never got to the backend; fails at once while it is down.

    Args:
        inner: The backend.
        options: How often and how long.
        name: The backend, for messages; without password.
        events: Counts.
        clock: Seconds that never step back.
        sleep: Waits for so many seconds.

    Attributes:
        breaker: Whether the backend is known to be down.
    """

    def __init__(
        self,
        inner: Backend,
        options: RetryOptions,
        name: str,
        events: Events,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(inner)
        self.breaker = Breaker(name, options.deadline, clock)
        self._options = options
        self._events = events
        self._clock = clock
        self._sleep = sleep

    # --- life ---

    async def aopen(self) -> None:
        await self._call(_always, self._inner.aopen)

    async def ping(self) -> None:
        await self._call(_always, self._inner.ping)

    async def examine(self) -> list[Finding]:
        return await self._call(_always, self._inner.examine)

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._batch(self._inner.append, batch, _may_append_again)

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._batch(self._inner.read, batch, _always)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._batch(self._inner.heads, batch, _always)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._call(_always, self._inner.list_sessions, listing)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._call(_never, self._inner.pop, session_id, count, user_id=user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._call(_never, self._inner.clear, session_id, user_id=user_id)

    async def update(self, change: Change) -> Session:
        return await self._call(_always, self._inner.update, change)

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._call(_never, self._inner.delete, session_id, user_id=user_id)

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._call(_never, self._inner.restore, session, messages)

    async def purge_sessions(self) -> int:
        return await self._call(_always, self._inner.purge_sessions)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._batch(self._inner.get_items, batch, _always)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._batch(self._inner.write_items, batch, _may_write_again)

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._call(_always, self._inner.scan, scan)

    async def purge_state(self) -> int:
        return await self._call(_always, self._inner.purge_state)

    # --- how ---

    async def _call(
        self, again: Callable[[None], bool], function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of a call for one caller."""
        start = self._clock()
        failed: UnavailableError | None = None
        if not self.breaker.is_open:
            try:
                return await function(*args, **kwargs)
            except UnavailableError as error:
                failed = error

        async def alone(_: Sequence[None]) -> list[Outcome[T]]:
            return [await function(*args, **kwargs)]

        job = _Job(alone, (None,), again)
        if failed is not None:
            job.take_error(failed)
        (result,) = await self._carried_out(job, start)
        return cast("T", result)  # an error would have been raised

    async def _batch(
        self,
        function: Callable[[Sequence[In]], Awaitable[list[Outcome[Out]]]],
        batch: Sequence[In],
        again: Callable[[In], bool],
    ) -> list[Outcome[Out]]:
        """The outcomes of a batch, each kept from the moment that it is final."""
        start = self._clock()
        job: _Job[In, Out] | None = None
        if not self.breaker.is_open:
            try:
                outcomes = await function(batch)
            except UnavailableError as error:
                job = _Job(function, batch, again)
                job.take_error(error)
            else:
                for outcome in outcomes:
                    if isinstance(outcome, UnavailableError):
                        break
                else:
                    return outcomes
                job = _Job(function, batch, again)
                job.take(outcomes)
        job = job or _Job(function, batch, again)
        try:
            return await self._carried_out(job, start)
        except asyncio.CancelledError as cancellation:
            job.keep(cancellation)
            raise

    async def _carried_out(self, job: _Job[In, Out], start: float) -> list[Outcome[Out]]:
        """What becomes of a job that was tried in vain, or not yet."""
        probe = None if job.tried else self._enter()
        if probe is not None:
            await self._see(job, probe)
        else:
            await self._mend(job, start)
        if job.raised is not None:
            raise job.raised
        return job.outcomes

    def _enter(self) -> Probe | None:
        try:
            return self.breaker.enter()
        except UnavailableError:
            self._events.count("fast_failures")
            raise

    async def _see(self, job: _Job[In, Out], probe: Probe) -> None:
        """Try once, to see whether the backend is back."""
        try:
            await job.attempt()
        except BaseException:
            self.breaker.abandoned(probe)
            raise
        if job.heard:
            self.breaker.answered()
        elif job.silence is not None:
            self.breaker.failed(job.silence, probe)
        else:
            self.breaker.abandoned(probe)

    async def _mend(self, job: _Job[In, Out], start: float) -> None:
        """Try until nothing is left that another attempt could mend, or the attempts or the time are used up."""
        if not job.tried:
            await job.attempt()
        if job.left:
            await self._try_again(job, start)
        if job.heard:
            self.breaker.answered()
        elif job.left and job.silence is not None:
            self.breaker.failed(job.silence)

    async def _try_again(self, job: _Job[In, Out], start: float) -> None:
        import tenacity  # noqa: PLC0415  6 ms, for what may never happen

        def is_over(state: RetryCallState) -> bool:
            used_up = state.attempt_number >= self._options.attempts
            return used_up or self._clock() + state.upcoming_sleep >= start + self._options.deadline

        async for attempt in tenacity.AsyncRetrying(
            retry=tenacity.retry_if_result(bool),
            wait=tenacity.wait_exponential(_PAUSE, _LONGEST_PAUSE)
            + tenacity.wait_random_exponential(_PAUSE, _LONGEST_PAUSE),
            stop=is_over,
            before_sleep=lambda _: self._events.count("retries"),
            retry_error_callback=lambda _: None,  # the job knows
            sleep=self._sleep,
        ):
            if attempt.retry_state.attempt_number > 1:  # the first has failed already
                await job.attempt()
            attempt.retry_state.set_result(bool(job.left))


class _Job(Generic[In, Out]):
    """A batch on its way: what each operation came to, and which are worth another attempt.

    Args:
        function: Carries out operations.
        batch: All of them.
        again: Whether an operation may be repeated though it may have been carried out.

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
    ) -> None:
        self._function = function
        self._batch = batch
        self._again = again
        self.outcomes: list[Any] = [None] * len(batch)
        self.tried = False
        self.left: Sequence[int] = range(len(batch))
        self.raised: AgentstoreError | None = None
        self.heard = False
        self.silence: UnavailableError | None = None

    async def attempt(self) -> None:
        """Try what is left, in order."""
        try:
            outcomes = await self._function([self._batch[index] for index in self.left])
        except AgentstoreError as error:
            self.take_error(error)
        else:
            self.take(outcomes)

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


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def _may_append_again(op: Append) -> bool:
    """Ids keep an append from being stored twice, and what is stored whole succeeds whatever `expected_seq` says.

    Only without messages there are no ids by which it would be known.
    """
    return bool(op.messages) or op.expected_seq is None


def _may_write_again(op: StateOp) -> bool:
    return isinstance(op, Expire) or (isinstance(op, SetItems) and op.if_version is None)


if TYPE_CHECKING:
    _layer: Callable[[Backend, RetryOptions, str, Events], Backend] = Retrying
