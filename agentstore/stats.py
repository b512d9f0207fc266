"""Figures about a Database at one moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class PoolStats(Record):
    """One connection pool.

    Attributes:
        url: Its backend, without password.
        size: Connections open now.
        in_use: Those at work.
        waiting: Callers in line for one.
    """

    url: str
    size: int
    in_use: int
    waiting: int


@dataclass(frozen=True, slots=True)
class QueueStats(Record):
    """The write queue.

    Attributes:
        waiting: Writes that wait for their group's turn.
        groups: Groups committed so far.
        writes: Writes committed so far; ``writes / groups`` is how many share one commit.
    """

    waiting: int = 0
    groups: int = 0
    writes: int = 0


@dataclass(frozen=True, slots=True)
class Latency(Record):
    """How long one kind of call takes, in seconds, over the life of the Database.

    Attributes:
        count: Calls that ended, failed ones included.
        mean: Their mean.
        p50: Half of the latest 1,000 took no longer.
        p99: 99 of 100 of them took no longer.
    """

    count: int
    mean: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Stats(Record):
    """What `Database.stats` gives.

    Attributes:
        pools: One entry for each connection pool in use.
        queue: The write queue.
        latencies: By call (``append``, ``messages``, ``set`` ...).
        errors: By class of error, how many calls ended with it.
        fallbacks: Writes that a fallback took.
    """

    pools: tuple[PoolStats, ...] = ()
    queue: QueueStats = field(default_factory=QueueStats)
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0
