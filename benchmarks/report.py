"""Writes docs/performance.md and its pictures from the stored results: ``python benchmarks/report.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sections
from goals import GOALS, notes
from stored import TITLES, Stored, clean

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
_TOLD = ("server", "durability", "synchronous", "fsync", "innodb_flush", "sync_binlog", "journal", "write concern")


def write_page(results: Path, docs: Path) -> Path:
    """Make the page and the pictures of growth; where the page is.

    Args:
        results: The folder of the stored results.
        docs: The folder that gets ``performance.md`` and ``performance/``.
    """
    stored = Stored(results)
    pictures = docs / "performance"
    parts = [sections.PROSE["head"].lstrip(), _machine(stored), _goals(stored), sections.workloads(stored, pictures)]
    parts += [sections.peers(stored), sections.growth(stored, pictures)]
    page = docs / "performance.md"
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    return page


def _machine(stored: Stored) -> str:
    machines = stored.machines()
    if not machines:
        return "Nothing has been measured yet.\n"
    first, last = machines[0], machines[-1]
    days = " to ".join(dict.fromkeys(one["date"][:10] for one in (first, last)))
    where = f"{last['cpus']} processors ({last['processor']}), {last['system']}, {last['python']}"
    lines = ["## Machine, versions, settings", ""]
    lines += [f"agentstore {last['agentstore']}, {days}, on {where}.", *_mixed(machines), ""]
    rows = []
    for backend in TITLES:
        found = stored.bench(backend, "append")
        if found is not None:
            told = [one for one in found["findings"] if one["subject"].startswith(_TOLD) or one["level"] != "ok"]
            settings = "; ".join(clean(f"{one['subject']} {one['value']}") for one in told)
            rows.append([TITLES[backend], ", ".join(f"{k} {v}" for k, v in found["settings"].items()), settings])
    failed = [f"**Not measured:** {step}: {clean(error)}\n" for step, error in stored.failed.items()]
    heads = ["", "agentstore", "what the store says of itself"]
    return "\n".join([*lines, *failed, sections.table(heads, rows, left=3)])


def _mixed(machines: list[dict[str, Any]]) -> Iterator[str]:
    """Results of several machines or versions are told: they do not belong beside one another."""
    for key in ("agentstore", "python", "system", "processor"):
        values = dict.fromkeys(machine[key] for machine in machines)
        if len(values) > 1:
            yield f"**Not all of one run:** {key} was {', '.join(map(str, values))}."


def _goals(stored: Stored) -> str:
    backends = [name for name in TITLES if any(goal.of(stored, name) is not None for goal in GOALS)]
    rows, missed = [], []
    for goal in GOALS:
        row = [goal.words, goal.asked()]
        for backend in backends:
            value = goal.of(stored, backend)
            text = "" if value is None else goal.form.format(value)
            if value is not None and not goal.reached(backend, value):
                of = f"{TITLES[backend]}, {goal.words}"
                missed.append(f"- {of}: {text}, {goal.asked(backend)} was asked. {_why(goal.key, backend)}")
                text = f"**{text}**"
            row.append(text)
        rows.append(row)
    lines = ["## Goals", "", sections.PROSE["goals"], ""]
    lines.append(sections.table(["", "asked", *(TITLES[name] for name in backends)], rows, left=2))
    return "\n".join([*lines, *(["Not reached:", "", *missed, ""] if missed else [])])


def _why(key: str, backend: str) -> str:
    of_goal = notes().get(key, {})
    return of_goal.get(backend) or of_goal.get("all") or "The reason is not known yet."


if __name__ == "__main__":
    from stores import RESULTS

    print(f"Written: {write_page(RESULTS, HERE.parent / 'docs')}", file=sys.stderr)
