"""The network between the writers and a server: cut, silent, slow."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import servers

from .effort import Effort
from .kit import Field, one_round
from .proxy import HOST, Proxy
from .report import Report

BRIEF = {"connect_timeout": 1.0, "statement_timeout": 1.0, "timeout": 1.0}
BOUND = 10.0
"""Seconds within which a call must end whose parts may take 1 s each: opening, asking, waiting for a connection."""


class Wire:
    """A fresh store behind a proxy, and a field whose writers reach it so."""

    def __init__(self, kind: str, durability: str, folder: Path, **job: object) -> None:
        self._kind, self._folder, self._job = kind, folder, {"durability": durability, **job}
        self._stack = ExitStack()

    def __enter__(self) -> tuple[Proxy, Field]:
        with self._stack as stack:
            direct = stack.enter_context(servers.fresh(self._kind))
            port = int(direct.partition(f"@{HOST}:")[2].partition("/")[0])
            proxy = stack.enter_context(Proxy(port))
            field = stack.enter_context(Field(direct, self._folder, **{**self._job, "url": proxy.through(direct)}))
            self._stack = stack.pop_all()
        return proxy, field

    def __exit__(self, *exc: object) -> None:
        self._stack.close()


def cut(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """All connections end after a number of bytes, amid statements or amid their answers."""
    with Wire(kind, durability, folder, pool=BRIEF, reads=True) as (proxy, field):
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
    """Nothing is answered, on open connections or new ones: callers are told in time. What was sent is lost, or late."""
    with Wire(kind, durability, folder, pool=BRIEF, reads=True) as (proxy, field):
        writer = field.start()
        for _ in range(effort.rounds):
            writer.until_each()
            (proxy.stall if late else proxy.blackhole)()
            writer.until_each("refused", 2)
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
    with Wire(kind, durability, folder, reads=True) as (proxy, field):
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
