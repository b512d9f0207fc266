"""Figures about a Database at one moment.

What Databases of one process share (pools, the write queue) is counted for all of them together.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .records import Plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LATEST = 1000


@dataclass(frozen=True, slots=True)
class PoolStats(Plain):
    """One connection pool: each event loop has its own.

    Attributes:
        url: Its backend, without password.
        size: Connections open now.
        in_use: Those at work.
        waiting: Callers in line for one.
        waits: Callers so far who had to stand in line.
        wait_mean: Seconds that they waited, on average.
        wait_max: Seconds that the longest waited.
        number: Its own in this process, as Databases may share a pool; 0: it has none.
    """

    url: str
    size: int
    in_use: int
    waiting: int
    waits: int = 0
    wait_mean: float = 0.0
    wait_max: float = 0.0
    number: int = 0


@dataclass(frozen=True, slots=True)
class ReplicaStats(Plain):
    """One read replica.

    Attributes:
        url: It, without password.
        in_use: Whether reads go there, as far as it holds what they need; else it is left out until it answers again.
        reason: Why it is left out: what it met last; None while it is in use.
    """

    url: str
    in_use: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class QueueStats(Plain):
    """The write queue.

    Attributes:
        waiting: Writes that wait for their group's turn, accepted ones that are not stored yet among them.
        groups: Groups committed so far.
        writes: Writes committed so far; ``writes / groups`` is how many share one commit.
        messages: Messages and values that are under way, waiting or with the backend; a change of state counts as one.
        bytes: Their bytes.
        journal_bytes: Bytes of this process's journals on the disk.
        rejected: Accepted writes that the backend refused; they are kept in the journals' folder.
        replayed: Writes that were stored from journals which other processes had left.
    """

    waiting: int = 0
    groups: int = 0
    writes: int = 0
    messages: int = 0
    bytes: int = 0
    journal_bytes: int = 0
    rejected: int = 0
    replayed: int = 0


@dataclass(frozen=True, slots=True)
class Latency(Plain):
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
class Stats(Plain):
    """What `Database.stats` gives.

    Attributes:
        pools: One entry for each connection pool in use; stores within this process have none.
        queue: The write queue.
        latencies: By call (``append``, ``messages``, ``set`` ...).
        errors: By class of error, how many calls ended with it.
        fallbacks: Writes that were accepted because the backend could not be reached.
        retries: Attempts that were made again, by themselves, because a backend could not be reached.
        fast_failures: Calls that failed at once, because a backend had not been reachable just before.
        replicas: One entry for each read replica.
    """

    pools: tuple[PoolStats, ...] = ()
    queue: QueueStats = field(default_factory=QueueStats)
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    fallbacks: int = 0
    retries: int = 0
    fast_failures: int = 0
    replicas: tuple[ReplicaStats, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, for a log or a page; no Stats come back from it."""
        latencies = {call: latency.to_dict() for call, latency in self.latencies.items()}
        return Plain.to_dict(self) | {"latencies": latencies}


EVENTS = {
    "retries": "Attempts made again because a backend could not be reached",
    "fast_failures": "Calls failed at once because a backend had not been reachable just before",
    "fallbacks": "Writes accepted because the backend could not be reached",
    "replayed": "Writes stored from journals that other processes had left",
    "rejected": "Accepted writes that the backend refused",
}
"""What may befall writes and calls, by its name in `Stats`."""


class Events:
    """Counts what befalls the writes and calls of one backend, from any thread.

    Attributes:
        retries, fast_failures, fallbacks, replayed, rejected: How often, see `EVENTS`.
        told: Is told of each too: of its name, and how often; not under any guard.
    """

    def __init__(self) -> None:
        self.retries = self.fast_failures = self.fallbacks = self.replayed = self.rejected = 0
        self.told: Callable[[str, int], None] | None = None
        self._guard = threading.Lock()

    def count(self, event: str, times: int = 1) -> None:
        """One of `EVENTS` has come about."""
        if times:
            with self._guard:
                setattr(self, event, getattr(self, event) + times)
            if self.told is not None:
                self.told(event, times)


class Meter:
    """Adds up what calls took and how they ended, from any thread."""

    def __init__(self) -> None:
        self._latest: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LATEST))
        self._counts: Counter[str] = Counter()
        self._totals: defaultdict[str, float] = defaultdict(float)
        self._errors: Counter[str] = Counter()

    def record(self, call: str, seconds: float, error: type[BaseException] | None) -> None:
        """One call of that name has ended."""
        self._latest[call].append(seconds)
        self._counts[call] += 1
        self._totals[call] += seconds
        if error is not None:
            self._errors[error.__name__] += 1

    def latencies(self) -> dict[str, Latency]:
        """By call, how long it takes."""
        return {call: self._latency(call) for call in list(self._counts)}

    def _latency(self, call: str) -> Latency:
        latest = sorted(self._latest[call])
        last = len(latest) - 1
        count = self._counts[call]
        return Latency(count, self._totals[call] / count, latest[last // 2], latest[last * 99 // 100])

    def errors(self) -> dict[str, int]:
        """By class, how many calls ended with an error."""
        return dict(self._errors)
