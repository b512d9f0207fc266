"""How results are shown: tables of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from .results import Figure, Judge, Machine, Result

_RATIO: dict[Judge, tuple[str, str]] = {
    "rate": ("x {:.2f}", "x: how often the first does it while this one does it once; more is better"),
    "time": ("t {:.2f}", "t: the first one's p50, with this one's as 1; less is better"),
    "added": ("{:+.1%}", "%: what the first one's p50 has beyond this one's; less is better"),
}
"""How a ratio is written, and what it means."""


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
    table = Table(
        "", *(Column(name, justify="right") for name in ("per second", "p50 ms", "p95 ms", "p99 ms", "ratio"))
    )
    for comparison in result.comparisons:
        table.add_row(Text(f"{comparison.name}, {comparison.unit}"))
        for figure in comparison.figures:
            table.add_row(*map(Text, _cells(figure, comparison.judge)))
        table.add_section()
    judges = dict.fromkeys(comparison.judge for comparison in result.comparisons)
    table.caption = Text("\n".join(_RATIO[judge][1] for judge in judges))
    table.caption_justify = "left"
    return table


def _cells(figure: Figure, judge: Judge) -> list[str]:
    times = [f"{seconds * 1000:,.3f}" for seconds in (figure.p50, figure.p95, figure.p99)]
    ratio = "" if figure.ratio is None else _RATIO[judge][0].format(figure.ratio)
    name = figure.side if figure.judged else f"{figure.side} (promises less)"
    return [f"  {name}", f"{figure.rate:,.0f}", *times, ratio if figure.judged else f"({ratio})"]
