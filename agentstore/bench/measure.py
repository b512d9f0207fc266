"""How it is measured: the sides take turns, and each operation is timed by itself."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from .results import Comparison, Figure, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .results import Judge

_WARM_UP = 0.2  # of the time and the work of a sample


class Watch(Protocol):
    """Hears how far a benchmark has come."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """So much of a piece of work is done."""


class Side:
    """Somebody who does the work, in its own way.

    Attributes:
        name: What the table calls it.
        judged: Whether it promises what the others do.
    """

    def __init__(self, name: str, *, judged: bool = True) -> None:
        self.name = name
        self.judged = judged

    async def ready(self, sample: int, callers: int, each: int) -> None:
        """Prepare for a sample, outside its time; the number differs from sample to sample."""

    async def do(self, caller: int, number: int) -> None:
        """One operation: a caller's, of that number."""
        raise NotImplementedError

    async def settle(self) -> None:
        """What has to be done before the sample's time ends, once all callers have ended."""

    async def check(self, done: Sequence[int]) -> None:
        """See whether all that was acknowledged is there, outside the time.

        Args:
            done: How many operations each caller did.

        Raises:
            AgentstoreError: It is not.
        """


@dataclass(frozen=True, slots=True)
class Case:
    """Work to be done by several sides.

    Attributes:
        name: What the table calls it.
        unit: What is counted.
        sides: The one that is judged first, then those beside it.
        callers: How many at once.
        each: How often each of them does it.
        judge: What the ratios are of.
        length: Messages in each session before, where it matters.
    """

    name: str
    unit: str
    sides: Sequence[Side]
    callers: int
    each: int
    judge: Judge = "rate"
    length: int | None = None


async def compare(case: Case, repeats: int, seconds: float, watch: Watch) -> Comparison:
    """Let the sides do the work in turns, each beginning half of the time, after a warm-up.

    Args:
        case: The work.
        repeats: How often each side does it.
        seconds: A side that needs longer than this ends early: the rate is what counts.
        watch: Is told what is going on.
    """
    samples: dict[Side, list[Sample]] = {side: [] for side in case.sides}
    for repeat in range(repeats + 1):
        order = case.sides if repeat % 2 else case.sides[::-1]
        for place, side in enumerate(order):
            watch(f"{case.name}: {side.name}", repeat * len(order) + place, (repeats + 1) * len(order))
            if repeat:
                samples[side].append(await _sample(case, side, repeat, case.each, seconds))
            else:
                await _sample(case, side, repeat, max(1, round(case.each * _WARM_UP)), seconds * _WARM_UP)
    first = samples[case.sides[0]]
    figures = [
        Figure.of(side.name, taken, None if taken is first else first, case.judge, judged=side.judged)
        for side, taken in samples.items()
    ]
    return Comparison(case.name, case.unit, case.callers, case.length, case.judge, figures)


async def _sample(case: Case, side: Side, number: int, each: int, seconds: float) -> Sample:
    await side.ready(number, case.callers, each)
    latencies: list[float] = []
    done = [0] * case.callers

    async def call(caller: int) -> None:
        for operation in range(each):
            start = perf_counter()
            if start >= deadline and operation:
                return
            await side.do(caller, operation)
            latencies.append(perf_counter() - start)
            done[caller] += 1

    gc.collect()
    begin = perf_counter()
    deadline = begin + seconds
    try:
        async with asyncio.TaskGroup() as group:
            for caller in range(case.callers):
                group.create_task(call(caller))
    except ExceptionGroup as errors:
        raise _first(errors) from None
    await side.settle()
    took = perf_counter() - begin
    await side.check(done)
    return Sample.of(latencies, took)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """What went wrong first: the others were cancelled for it, or met the same."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error
