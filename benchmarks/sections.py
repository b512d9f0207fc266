"""The sections of the page that have figures: by hand, peers, growth."""

from __future__ import annotations

import tomllib
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from curves import Panel, draw
from stored import TITLES, clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from stored import Stored

PROSE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("prose.toml").read_text(encoding="utf-8"))
_RATIOS = {"rate": "x {:.2f}", "time": "t {:.2f}", "added": "{:+.1%}"}
_MILLI = 1000


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A table in Markdown; all but the first columns are figures."""
    marks = ["---" if at < left else "---:" for at in range(len(heads))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (heads, marks, *rows))


def workloads(stored: Stored, pictures: Path) -> str:
    """Beside the bare driver."""
    heads = ["", "", "per second", "p50 ms", "p99 ms", "ratio"]
    parts = ["## Beside the bare driver\n", PROSE["by_hand"].lstrip()]
    for one in PROSE["workloads"]:
        if rows := list(_rows(stored, one["name"], one["which"])):
            parts += [f"### {one['title']}\n", f"{one['words']}\n", table(heads, rows, left=2)]
    drawn = [name for name in TITLES if (pictures / f"{name}.png").exists()]
    if drawn:
        parts += ["### Curves\n", f"{PROSE['curves']}\n"]
        parts += [f"![{TITLES[name]}](performance/{name}.png)\n" for name in drawn]
    return "\n".join(parts)


def _rows(stored: Stored, name: str, which: int) -> Iterator[list[str]]:
    for backend, title in TITLES.items():
        found = stored.comparison(backend, name, which)
        if found is None:
            continue
        for at, figure in enumerate(found["figures"]):
            ratio = "" if figure["ratio"] is None else _RATIOS[found["judge"]].format(figure["ratio"])
            side = figure["side"] if figure["judged"] else f"{figure['side']} (promises less)"
            times = [f"{figure[part] * _MILLI:,.3f}" for part in ("p50", "p99")]
            yield ["" if at else f"{title}, {found['name']}", side, f"{figure['rate']:,.0f}", *times, ratio]


def peers(stored: Stored) -> str:
    """Beside other libraries."""
    parts = ["## Beside other libraries\n", PROSE["peers"].lstrip()]
    for backend, title in TITLES.items():
        if rivals := stored.rivals(backend):
            parts += [f"### {title}\n", _best(stored, backend), _peers_table(rivals), *_remarks(rivals), ""]
    return "\n".join(parts) if len(parts) > 2 else ""  # noqa: PLR2004  the two above


def _best(stored: Stored, backend: str) -> str:
    found = stored.best_peer(backend)
    if found is None:
        return "No peer could be measured.\n"
    text = f"At many sessions agentstore does {found[0]:.1f} times what the best of them does as it comes ({found[1]})"
    tuned = stored.best_peer(backend, tuned=True)
    return f"{text}.\n" if tuned is None else f"{text}; {tuned[0]:.1f} times where one was helped ({tuned[1]}).\n"


def _peers_table(rivals: list[dict[str, Any]]) -> str:
    measured = [one for one in rivals if "cases" in one]
    cases = [(case["name"], case["unit"], case.get("callers")) for case in measured[0]["cases"]] if measured else []
    rows = []
    if measured:
        own = (median(one["cases"][at]["ours"]["rate"] for one in measured) for at in range(len(cases)))
        audits = [one["audit"]["ours"] for one in measured]
        rows.append(["agentstore", *(f"{rate:,.0f}" for rate in own), *_audit(audits)])
    for one in measured:
        cells = [_beside(case) for case in one["cases"]]
        rows.append([one["name"], *cells, *_audit([one["audit"]["theirs"]])])
    heads = [f"{name.replace('many sessions', f'{callers} sessions')}, {unit}/s" for name, unit, callers in cases]
    return table(["", *heads, "acknowledged", "failed", "lost"], rows) if rows else ""


def _beside(case: dict[str, Any]) -> str:
    ratio = "none succeeded" if case["ratio"] is None else f"x {case['ratio']:.1f}"
    return f"{case['theirs']['rate']:,.0f} ({ratio})"


def _audit(audits: list[dict[str, Any]]) -> list[str]:
    cells = []
    for what in ("acknowledged", "failed", "lost"):
        counts = [one[what] for one in audits]
        cells.append("unknown" if None in counts else f"{sum(counts):,}")
    return cells


def _remarks(rivals: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each peer: version, settings, what went wrong."""
    for one in rivals:
        head = f"- {one['name']} ({one['version']})"
        if "unavailable" in one:
            yield f"{head}: no figures. {clean(one['unavailable'])}"
            continue
        told = [f"{name}: {value}" for name, value in one["settings"]["theirs"].items()]
        told += [f"promises less: {one['less']}"] if one["less"] else []
        told += [f"tuned for it: {one['tuned']}"] if one["tuned"] else []
        audit = one["audit"]["theirs"]
        told += [f"{count:,} times: {clean(error)}" for error, count in (audit["refused"] | audit["errors"]).items()]
        if audit["disordered"]:
            told.append(f"{audit['disordered']:,} sessions out of order")
        yield f"{head}: {'; '.join(told)}."


def growth(stored: Stored, pictures: Path) -> str:
    """Cost as work grows."""
    parts = ["## Cost as work grows\n"]
    for one in PROSE["growth"]:
        what, title, shown = one["what"], one["title"], one["shown"]
        found = {name: points for name in TITLES if (points := stored.growth(name, what))}
        if not found:
            continue
        draw(pictures / f"{what}.png", [_panel(found, title, key, label) for key, label in shown])
        parts += [f"### By {title}\n", f"{one['words']}\n", *(_grown(found, key, label) for key, label in shown)]
        parts.append(f"![By {title}](performance/{what}.png)\n")
    parts += _memory(stored, pictures)
    return "\n".join(parts) if len(parts) > 1 else ""


def _value(point: dict[str, Any], key: str) -> float:
    value = point[key]
    return float(value if key == "rate" else value["p50"] * _MILLI)


def _panel(found: dict[str, list[dict[str, Any]]], below: str, key: str, label: str) -> Panel:
    return Panel(
        below, label, {TITLES[name]: [(p["at"], _value(p, key)) for p in points] for name, points in found.items()}
    )


def _grown(found: dict[str, list[dict[str, Any]]], key: str, label: str) -> str:
    places = sorted({point["at"] for points in found.values() for point in points})
    form = "{:,.0f}" if key == "rate" else "{:,.2f}"
    rows = []
    for name, points in found.items():
        values = {point["at"]: form.format(_value(point, key)) for point in points}
        rows.append([TITLES[name], *(values.get(place, "") for place in places)])
    return table([label, *(f"{place:,}" for place in places)], rows)


_STREAMS = (("reading", "read by `iter_messages`"), ("queue", 'through the queue, `durability="memory"`'))
_MEGA = 2**20


def _memory(stored: Stored, pictures: Path) -> list[str]:
    rows, panels = [], []
    for what, label in _STREAMS:
        panel = Panel("messages", f"MiB resident, {label.replace('`', '')}", log=False)
        for name, title in TITLES.items():
            if points := stored.growth(name, what):
                panel.curves[title] = [(point["at"], point["resident"] / _MEGA) for point in points]
                sizes = [size for _, size in panel.curves[title]]
                cells = [f"{size:,.0f}" for size in (sizes[0], max(sizes), sizes[-1])]
                rows.append([f"{title}, {label}", f"{points[-1]['at']:,}", *cells])
        if panel.curves:
            panels.append(panel)
    if not panels:
        return []
    draw(pictures / "memory.png", panels)
    heads = ["MiB resident", "messages", "at first", "at most", "in the end"]
    return ["### Memory\n", PROSE["memory"].lstrip(), table(heads, rows), "![Memory](performance/memory.png)\n"]
