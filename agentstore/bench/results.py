"""What a benchmark finds: plain records, for a table, JSON, a plot or a page."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.findings import Finding

Judge: TypeAlias = Literal["rate", "time", "added"]
"""What a ratio is of: ``rate``: the first side's rate by the other's (more is better). ``time``: the first side's
median time by the other's (less is better). ``added``: what the first side's median time has beyond the other's, as a
part of the other's (less is better)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One side's work, done once.

    Attributes:
        operations: How many.
        seconds: From the first to the end of the last.
        p50: Seconds within which half of them had ended, each by itself.
        p95: The same for 95 of 100.
        p99: The same for 99 of 100.
    """

    operations: int
    seconds: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, latencies: list[float], seconds: float) -> Sample:
        """From the time that each operation took."""
        latencies.sort()
        last = len(latencies) - 1
        p50, p95, p99 = (latencies[round(last * part)] for part in (0.50, 0.95, 0.99))
        return cls(len(latencies), seconds, p50, p95, p99)

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds

    def ratio(self, other: Sample, judge: Judge) -> float:
        """This one beside another."""
        if judge == "rate":
            return self.rate / other.rate
        return self.p50 / other.p50 - (judge == "added")


@dataclass(frozen=True, slots=True)
class Figure:
    """What one side came to, over all repeats: medians.

    Attributes:
        side: Who did the work.
        judged: Whether it promises the same, so that the ratio says something.
        operations: How many it did, in all repeats together.
        rate: Operations per second.
        p50: Seconds, as those below.
        p95: ...
        p99: ...
        ratio: The first side's beside this one's, as `Comparison.judge` says; None for the first side itself.
        rates: Of each repeat.
        ratios: Of each repeat.
    """

    side: str
    judged: bool
    operations: int
    rate: float
    p50: float
    p95: float
    p99: float
    ratio: float | None
    rates: list[float]
    ratios: list[float]

    @classmethod
    def of(
        cls, side: str, samples: Sequence[Sample], firsts: Sequence[Sample] | None, judge: Judge, *, judged: bool
    ) -> Figure:
        """From a side's samples, and those of the first side at the same repeats."""
        ratios = [] if firsts is None else [one.ratio(other, judge) for one, other in zip(firsts, samples, strict=True)]
        return cls(
            side,
            judged,
            operations=sum(sample.operations for sample in samples),
            rate=median(sample.rate for sample in samples),
            p50=median(sample.p50 for sample in samples),
            p95=median(sample.p95 for sample in samples),
            p99=median(sample.p99 for sample in samples),
            ratio=median(ratios) if ratios else None,
            rates=[sample.rate for sample in samples],
            ratios=ratios,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same work by several sides.

    Attributes:
        name: What was done.
        unit: What is counted.
        callers: How many at once.
        length: Messages in each session before, where it matters.
        judge: What the ratios are of.
        figures: The side that is judged first, then those beside it.
    """

    name: str
    unit: str
    callers: int
    length: int | None
    judge: Judge
    figures: list[Figure]


@dataclass(frozen=True, slots=True)
class Result:
    """A workload on a store.

    Attributes:
        workload: Its name.
        url: Without password.
        settings: In words.
        findings: What the store says of its own durability and the like.
        comparisons: The figures.
    """

    workload: str
    url: str
    settings: dict[str, str]
    findings: list[Finding]
    comparisons: list[Comparison]


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when: absolute figures mean nothing elsewhere."""

    agentstore: str
    python: str
    system: str
    processor: str
    cpus: int
    date: str

    @classmethod
    def here(cls) -> Machine:
        """This one, now."""
        return cls(
            agentstore=importlib.metadata.version("agentstore"),
            python=f"{platform.python_implementation()} {platform.python_version()}",
            system=f"{platform.system()} {platform.release()}",
            processor=_processor(),
            cpus=os.cpu_count() or 1,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True, slots=True)
class Report:
    """All of a run.

    Attributes:
        machine: Where and when.
        results: By store and workload.
        sweeps: What was measured for the plots: concurrency, and length of session.
    """

    machine: Machine
    results: list[Result]
    sweeps: list[Result]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return dataclasses.asdict(self)
