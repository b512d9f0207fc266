"""The network between the writers and a server: cut, silent, slow."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import servers
from agentstore import RetryOptions

from .effort import Effort
from .kit import Field, one_round
from .proxy import HOST, Proxy
from .report import Report

BRIEF = {"connect_timeout": 1.0, "statement_timeout": 1.0, "timeout": 1.0}
BOUND = RetryOptions().deadline + 10.0
"""Seconds within which a call must end: no try begins after the deadline, and the parts of one take 1 s each."""


@contextmanager
def wire(kind: str) -> Iterator[tuple[str, Proxy]]:
    """The URL of a fresh store, and a proxy before its server."""
    with servers.fresh(kind) as direct:
        port = int(direct.partition(f"@{HOST}:")[2].partition("/")[0])
        with Proxy(port) as proxy:
            yield direct, proxy


@contextmanager
def wired(kind: str, durability: str, folder: Path, **job: object) -> Iterator[tuple[Proxy, Field]]:
    """The proxy, and a field whose writers reach a fresh store by it."""
    with (
        wire(kind) as (direct, proxy),
        Field(direct, folder, durability=durability, url=proxy.through(direct), **job) as field,
    ):
        yield proxy, field


def cut(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """All connections end after a number of bytes, amid statements or amid their answers."""
    with wired(kind, durability, folder, pool=BRIEF, reads=True) as (proxy, field):
        writer = field.start()
        for _ in range(effort.rounds):
            writer.until_more(field.chance.randrange(1, 20))
            before = proxy.cuts
            proxy.cut(after=field.chance.randrange(3000), way=field.chance.choice(("up", "down")))
            writer.until(lambda before=before: proxy.cuts > before, "traffic enough for the cut")
            writer.until_each()
            yield one_round()
        field.stop()
        yield field.audit()


def silent(kind: str, durability: str, effort: Effort, folder: Path, *, late: bool) -> Iterator[Report]:
    """Nothing is answered, on open connections or new ones: callers are told in time. What was sent is lost or late."""
    with wired(kind, durability, folder, pool=BRIEF, reads=True) as (proxy, field):
        writer = field.start()
        for _ in range(effort.rounds):
            writer.until_each()
            (proxy.stall if late else proxy.blackhole)()
            writer.until_felt(2)
            proxy.heal()
            writer.until_each(count=3)
            yield one_round()
        field.stop()
        report = field.audit()
        if report.slowest > BOUND:
            report.blame("other", f"a call took {report.slowest:.1f} s")
        yield report


def slow(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """Each byte takes 100 ms each way."""
    with wired(kind, durability, folder, reads=True) as (proxy, field):
        writer = field.start()
        proxy.delay(0.1)
        for _ in range(effort.rounds):
            writer.until_more(8)
            yield one_round()
        field.stop()
        report = field.audit()
        if report.refused:
            report.blame("other", f"{report.refused} calls were refused by a server that is only slow")
        yield report
