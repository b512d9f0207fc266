"""Curves: rate and latency against how many call at once, and against the length of the session."""

from __future__ import annotations

import html
import importlib.util
import io
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from .results import Comparison, Figure, Report, Result

_SUFFIXES = (".png", ".html")
_STYLE = "body{font-family:sans-serif} svg{max-width:100%;height:auto} td,th{padding:2px 10px;text-align:left}"
_AXES = {"concurrency": "sessions at once", "length": "messages in the session"}


def check(path: str) -> None:
    """Complain now of what could only fail when all has been measured.

    Raises:
        ConfigurationError: The file is of no kind that can be made, its folder is not there, or matplotlib is missing.
    """
    if Path(path).suffix not in _SUFFIXES:
        raise ConfigurationError(f"a plot is a .png or an .html file, not {path}")
    if not Path(path).absolute().parent.is_dir():
        raise ConfigurationError(f"there is no folder for the plot {path}")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigurationError("plots need the package matplotlib", hint="pip install 'agentstore[bench]'")


def write(report: Report, path: str) -> None:
    """Draw the sweeps of a report into a .png, or into an .html page that needs nothing beside it."""
    canvas = _drawn(report)
    if Path(path).suffix == ".png":
        canvas.savefig(path, dpi=120)
    else:
        Path(path).write_text(_page(report, canvas), encoding="utf-8")


def _drawn(report: Report) -> Canvas:
    from matplotlib.figure import Figure as Canvas  # noqa: PLC0415  an extra

    canvas = Canvas(figsize=(15, 11), layout="constrained")
    canvas.suptitle(_plain(_told(report)), fontsize="medium")
    schemes = {result.url: result.url.partition(":")[0] for result in report.sweeps}
    names = schemes if len(set(schemes.values())) == len(schemes) else {url: url for url in schemes}
    for axes, kind in zip(canvas.subplots(2, 2), _AXES, strict=True):
        found = [result for result in report.sweeps if result.workload == kind]
        places = sorted({_place(comparison) for result in found for comparison in result.comparisons})
        for result in found:
            _draw(axes[0], axes[1], names[result.url], result.comparisons)
        _label(axes[0], places, _AXES[kind], "per second")
        _label(axes[1], places, _AXES[kind], "milliseconds, p50; dashed: p99")
    return canvas


def _draw(rates: Axes, times: Axes, store: str, comparisons: Sequence[Comparison]) -> None:
    for (name, points), marker in zip(_curves(store, comparisons), cycle("os^vDx"), strict=False):
        places = [place for place, _ in points]
        (line,) = rates.plot(places, [figure.rate for _, figure in points], marker=marker, label=_plain(name))
        colour = line.get_color()
        p50s, p99s = [one.p50 * 1000 for _, one in points], [one.p99 * 1000 for _, one in points]
        times.plot(places, p50s, marker=marker, color=colour, label=_plain(name))
        times.plot(places, p99s, marker=marker, color=colour, linestyle="--")


def _curves(store: str, comparisons: Sequence[Comparison]) -> Iterator[tuple[str, list[tuple[int, Figure]]]]:
    """For each side and unit, its figures from place to place on the axis."""
    curves: dict[str, list[tuple[int, Figure]]] = {}
    for comparison in comparisons:
        for figure in comparison.figures:
            name = f"{store}, {comparison.unit}, {figure.side}"
            curves.setdefault(name, []).append((_place(comparison), figure))
    yield from curves.items()


def _place(comparison: Comparison) -> int:
    return comparison.callers if comparison.length is None else comparison.length


def _label(axes: Axes, places: list[int], below: str, beside: str) -> None:
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.set_xticks([], minor=True)
    axes.set_yscale("log")
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend(fontsize="small")


def _plain(text: str) -> str:
    r"""Text that matplotlib takes as it is: a ``$`` would begin a formula."""
    return text.replace("$", r"\$")


def _told(report: Report) -> str:
    machine = report.machine
    where = f"{machine.cpus} processors, {machine.processor}, {machine.system}"
    settings = ", ".join(f"{name} {value}" for name, value in report.sweeps[0].settings.items())
    return f"agentstore {machine.agentstore}, {machine.python}, {machine.date}\n{where}\n{settings}"


def _page(report: Report, canvas: Canvas) -> str:
    drawing = io.StringIO()
    canvas.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    rows = "".join(_row(result, comparison) for result in report.sweeps for comparison in result.comparisons)
    heads = "".join(
        f"<th>{name}</th>" for name in ("store", "what", "side", "per second", "p50 ms", "p95 ms", "p99 ms")
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>agentstore bench</title>'
        f"<style>{_STYLE}</style>"
        f"<h1>agentstore bench</h1><p>{html.escape(_told(report))}</p>{svg[svg.index('<svg') :]}"
        f"<table><tr>{heads}</tr>{rows}</table></html>\n"
    )


def _row(result: Result, comparison: Comparison) -> str:
    rows = []
    for figure in comparison.figures:
        times = [f"{seconds * 1000:.3f}" for seconds in (figure.p50, figure.p95, figure.p99)]
        cells = [result.url, comparison.name, figure.side, f"{figure.rate:,.0f} {comparison.unit}", *times]
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return "".join(rows)
