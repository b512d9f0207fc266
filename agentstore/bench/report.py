"""How results are shown: tables of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from .results import Comparison, Figure, Judge, Machine, Result

_RATIO: dict[Judge, str] = {"rate": "x {:.2f}", "time": "x {:.2f} in time", "added": "{:+.1%} in time"}


# What of a store's findings bears on what a commit is worth, whatever its backend.
_TOLD = ("server", "durability", "synchronous", "fsync", "innodb_flush", "sync_binlog", "journal", "write concern")


def show_machine(console: Console, machine: Machine) -> None:
    """Where and when, in two lines."""
    told = f"agentstore {machine.agentstore}, {machine.python}, {machine.system}, {machine.date}"
    console.print(Text(told))
    console.print(Text(f"{machine.cpus} processors: {machine.processor}"))


def show(console: Console, result: Result) -> None:
    """One workload on one store: its settings, and a line for each side."""
    console.print()
    console.print(Text(f"{result.workload}: {result.url}"))
    console.print(Text(", ".join(f"{name} {value}" for name, value in result.settings.items())))
    told = [one for one in result.findings if one.subject.startswith(_TOLD) or one.level != "ok"]
    console.print(Text("; ".join(f"{one.subject} {one.value}" for one in told)))
    console.print(_table(result))


def _table(result: Result) -> Table:
    table = Table("what", "side")
    for name in ("per second", "p50 ms", "p95 ms", "p99 ms", "agentstore's ratio to it"):
        table.add_column(name, justify="right")
    for comparison in result.comparisons:
        for number, figure in enumerate(comparison.figures):
            table.add_row(Text("" if number else comparison.name), *map(Text, _cells(comparison, figure)))
        table.add_section()
    return table


def _cells(comparison: Comparison, figure: Figure) -> list[str]:
    times = [f"{seconds * 1000:,.3f}" for seconds in (figure.p50, figure.p95, figure.p99)]
    ratio = "" if figure.ratio is None else _RATIO[comparison.judge].format(figure.ratio)
    return [
        figure.side,
        f"{figure.rate:,.0f} {comparison.unit}",
        *times,
        ratio if figure.judged else f"({ratio}: it promises less)",
    ]
