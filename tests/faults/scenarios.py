"""What is broken, how, and on which backends: the one list, for the tests and for `make faults`."""

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from . import deaths, machine, network, outage
from .effort import Effort
from .kit import DURABILITIES, FALLBACKS
from .report import Report

Play = Callable[[Effort, Path], Iterator[Report]]
_SERVERS = ("postgresql", "mysql", "redis", "clickhouse")
_FILES = ("sqlite", "json")


@dataclass(frozen=True)
class Scenario:
    """One thing that goes wrong.

    Attributes:
        group: What is broken.
        case: On which backend, with which durability.
        play: Does it, in a folder of its own; yields what it found, a report for each round among it.
        short: How much of it the tests play.
        long: How much of it `make faults` plays.
    """

    group: str
    case: str
    play: Play
    short: Effort
    long: Effort

    @property
    def title(self) -> str:
        """Its line in the table."""
        return f"{self.group}: {self.case}"

    def rounds(self, effort: Effort) -> Iterator[Report]:
        """Play it, and time it."""
        with tempfile.TemporaryDirectory(prefix="agentstore-faults-") as folder:
            start = time.monotonic()
            for report in self.play(effort, Path(folder)):
                report.seconds = time.monotonic() - start
                yield report
                start = time.monotonic()


def _writers_killed(durability: str) -> Iterator[Scenario]:
    for kind in (*_FILES, "postgresql"):
        play = partial(deaths.writer_killed, kind, durability)
        yield Scenario("a writer killed (kill -9)", f"{kind}, {durability}", play, Effort(3), Effort(200))
    play = partial(deaths.four_writers, durability)
    case = f"postgresql, {durability}"
    yield Scenario("four writers, one killed each second", case, play, Effort(seconds=8), Effort(seconds=60))


def _scenarios() -> Iterator[Scenario]:
    for durability in DURABILITIES:
        if durability != "memory":  # which does not outlive its process
            yield from _writers_killed(durability)
        for kind in _SERVERS:
            case = f"{kind}, {durability}"
            play = partial(deaths.server_killed, kind, durability)
            yield Scenario("a server killed and restarted", case, play, Effort(2), Effort(20))
            play = partial(network.cut, kind, durability)
            yield Scenario("connections cut amid statements", case, play, Effort(10), Effort(200))
            play = partial(network.silent, kind, durability, late=False)
            yield Scenario("a network that swallows", case, play, Effort(1), Effort(10))
            play = partial(network.silent, kind, durability, late=True)
            yield Scenario("a network that delivers too late", case, play, Effort(1), Effort(10))
            play = partial(network.slow, kind, durability)
            yield Scenario("a network of 200 ms", case, play, Effort(4), Effort(100))
        for kind in _FILES if durability != "memory" else ():  # where no caller is told before the queue is full
            play = partial(machine.disk_full, kind, durability)
            yield Scenario("a full disk", f"{kind}, {durability}", play, Effort(1), Effort(10))
        for kind in (*_FILES, "postgresql"):
            play = partial(machine.clock_set_back, kind, durability)
            yield Scenario("a clock set back", f"{kind}, {durability}", play, Effort(3), Effort(50))
    for fallback in FALLBACKS:
        play = partial(outage.down, "postgresql", "commit", fallback)
        case = f"postgresql, {f'fallback {fallback}' if fallback else 'no fallback'}"
        yield Scenario("a backend down under 50 appends/s", case, play, Effort(seconds=5), Effort(seconds=60))


SCENARIOS = tuple(_scenarios())
