"""What fails in passing is tried again; what is known to be down is not waited for.

The way of a call that succeeds is one plain await. Only the first failure brings in tenacity, which knows when to try
again and when to stop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, ParamSpec, TypeVar, cast

from agentstore import rules
from agentstore.errors import UnavailableError

from .base import Layer
from .breaker import Breaker
from .job import Job

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tenacity import RetryCallState

    from agentstore.findings import Finding
    from agentstore.options import RetryOptions
    from agentstore.protocol import Append, Backend, Change, Find, GetItems, Head, Listing, Outcome, Read, Scan, StateOp
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
        has_fallback: Writes go on elsewhere while it is down.

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
        has_fallback: bool = False,
    ) -> None:
        super().__init__(inner)
        self.breaker = Breaker(name, options.deadline, clock, has_fallback=has_fallback)
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
        return await self._batch(self._inner.append, batch, rules.repeatable)

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._batch(self._inner.read, batch, _always)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._batch(self._inner.find, batch, _always)

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

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._call(_always, self._inner.rewrite, session, messages)

    async def purge_sessions(self) -> int:
        return await self._call(_always, self._inner.purge_sessions)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._batch(self._inner.get_items, batch, _always)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._batch(self._inner.write_items, batch, rules.repeatable)

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._call(_always, self._inner.scan, scan)

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._call(_always, self._inner.namespaces, after, limit)

    async def purge_state(self) -> int:
        return await self._call(_always, self._inner.purge_state)

    # --- how ---

    async def _call(
        self, again: Callable[[None], bool], function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The result of a call for one caller."""
        start, answers = self._clock(), self.breaker.answers
        failed: UnavailableError | None = None
        if not self.breaker.is_open:
            try:
                result = await function(*args, **kwargs)
            except UnavailableError as error:
                failed = error
            else:
                self.breaker.answers += 1
                return result

        async def alone(_: Sequence[None]) -> list[Outcome[T]]:
            return [await function(*args, **kwargs)]

        job = Job(alone, (None,), again, self.breaker)
        if failed is not None:
            job.begun(answers).take_error(failed)
        (outcome,) = await self._carried_out(job, start)
        return cast("T", outcome)  # an error would have been raised

    async def _batch(
        self,
        function: Callable[[Sequence[In]], Awaitable[list[Outcome[Out]]]],
        batch: Sequence[In],
        again: Callable[[In], bool],
    ) -> list[Outcome[Out]]:
        """The outcomes of a batch, each kept from the moment that it is final."""
        start, answers = self._clock(), self.breaker.answers
        failed: UnavailableError | list[Outcome[Out]] | None = None
        if not self.breaker.is_open:
            try:
                failed = await function(batch)
            except UnavailableError as error:
                failed = error
            else:
                for outcome in failed:
                    if isinstance(outcome, UnavailableError):
                        break
                else:
                    self.breaker.answers += 1
                    return failed
        job = Job(function, batch, again, self.breaker)
        if isinstance(failed, UnavailableError):
            job.begun(answers).take_error(failed)
        elif failed is not None:
            job.begun(answers).take(failed)
        try:
            return await self._carried_out(job, start)
        except asyncio.CancelledError as cancellation:
            job.keep(cancellation)
            raise

    async def _carried_out(self, job: Job[In, Out], start: float) -> list[Outcome[Out]]:
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

    async def _see(self, job: Job[In, Out], probe: Probe) -> None:
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

    async def _mend(self, job: Job[In, Out], start: float) -> None:
        """Try until nothing is left that another attempt could mend, or the attempts or the time are used up."""
        if not job.tried:
            await job.attempt()
        if job.left:
            await self._try_again(job, start)
        if job.heard:
            self.breaker.answered()
        elif job.is_lost and job.silence is not None:
            self.breaker.failed(job.silence)

    async def _try_again(self, job: Job[In, Out], start: float) -> None:
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


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


if TYPE_CHECKING:
    _layer: Callable[[Backend, RetryOptions, str, Events], Backend] = Retrying
