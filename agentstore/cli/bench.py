"""`agentstore bench`: how fast a store is, beside the same work on its bare driver."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from agentstore.bench import plot as plots
from agentstore.bench.report import show, show_machine
from agentstore.bench.results import Machine, Report
from agentstore.bench.run import check
from agentstore.bench.run import run as measure
from agentstore.bench.workloads import SWEEPS

from .output import print_json, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentstore.bench.kit import Options
    from agentstore.bench.measure import Watch
    from agentstore.bench.results import Result


def run(urls: Sequence[str], workloads: Sequence[str], options: Options, *, as_json: bool, plot: str | None) -> None:
    """Measure each workload on each store, and print what was found; with `plot` draw curves into that file."""
    if plot is not None:
        plots.check(plot)
    with contextlib.ExitStack() as stack:
        if not urls:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="agentstore-bench-"))
            urls = [f"sqlite:///{folder}/bench.db"]
            say(f"No --url: a temporary SQLite file is measured, in {folder}", err=True)
        check(urls, [*workloads, *([] if plot is None else SWEEPS)], options)
        report = Report(Machine.here(), [], [])
        console = Console(highlight=False, quiet=as_json)
        show_machine(console, report.machine)
        asyncio.run(_all(urls, workloads, options, report.results, console))
        if plot is not None:
            asyncio.run(_all(urls, list(SWEEPS), options, report.sweeps, console))
            plots.write(report, plot)
            say(f"Plotted in {plot}", err=True)
    if as_json:
        print_json(report.to_dict())


async def _all(
    urls: Sequence[str], workloads: Sequence[str], options: Options, results: list[Result], console: Console
) -> None:
    for url in urls:
        for workload in workloads:
            with _progress(workload) as watch:
                results.append(await measure(url, workload, options, watch))
            show(console, results[-1])


@contextlib.contextmanager
def _progress(workload: str) -> Iterator[Watch]:
    """A live display on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(workload, total=None)

        def watch(what: str, done: int, total: int) -> None:
            bar.update(task, description=f"{workload}: {what}", completed=done, total=total)

        yield watch
