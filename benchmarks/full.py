"""The whole measurement, hours long: ``make bench-full``, or parts of it, each again whenever it is wanted.

    python benchmarks/full.py                                     # everything that the environment has a server for
    python benchmarks/full.py --part peers --backend sqlite --name adk
    python benchmarks/full.py --part page                         # the page anew, from what is stored

A step's result is a file of JSON in `.results/`, which the next run of that step replaces; the page is made of them.
With `--brief` results and page go to a folder in there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curves import shrink
from report import write_page
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rivals import RIVALS
from side_by_side import Effort, OursError, measure
from stores import BACKENDS, RESULTS, MissingServerError, empty, has, synced

from agentstore.bench.results import Machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
PARTS = ("bench", "peers", "growth", "page")
_DEEP = ("sqlite", "json")  # those that get a million messages in one session by default
_SLOW = {"mongodb": 10}  # what the tests start in its place reads whole sessions: a tenth is enough of that

_WORKLOADS = {
    "append": ("--workload", "append", "--compare", "raw"),
    "sequential": ("--workload", "sequential", "--compare", "raw"),  # and the curves
    "resume": ("--workload", "resume", "--compare", "raw"),
    "state": ("--workload", "state", "--compare", "raw"),
    "agent": ("--workload", "agent"),
    "mixed": ("--workload", "mixed", "--compare", "raw"),
    "long": ("--workload", "long"),
    "journal": ("--workload", "append", "--durability", "journal"),
    "memory": ("--workload", "append", "--durability", "memory"),
}
_CURVES = "sequential"
_GROWTH = ("length", "sessions", "concurrency", "reading", "queue")


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to measure.

    Attributes:
        part: Of which part.
        backend: On what.
        name: What, within the part.
        run: Measures; what is stored.
    """

    part: str
    backend: str
    name: str
    run: Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything.

    Attributes:
        effort: Repeats, seconds, sessions and turns.
        deep: Messages in the longest session, where the backend is on this machine's disk.
        far: The same on a server.
        sessions: In the fullest store.
        tasks: At once, at most.
        times: Operations at each point of growth.
        results: The folder of the results.
        docs: The folder of the page.
    """

    effort: Effort
    deep: int = 1_000_000
    far: int = 100_000
    sessions: int = 100_000
    tasks: int = 1000
    times: int = 200
    results: Path = RESULTS
    docs: Path = DOCS

    def longest(self, backend: str) -> int:
        """Messages in the longest session."""
        return self.deep if backend in _DEEP else max(1, self.far // _SLOW.get(backend, 1))

    def fullest(self, backend: str) -> int:
        """Sessions in the fullest store."""
        return max(1, self.sessions // _SLOW.get(backend, 1))


BRIEF = Scale(
    *(Effort(repeats=1, seconds=0.2, sessions=8, turns=5, length=60), 2000, 2000, 1000, 16, 10),
    *(RESULTS / "brief", RESULTS / "brief"),
)
"""Enough to see that all runs; no figure of it means anything."""


def steps(scale: Scale) -> Iterator[Step]:
    """All of them, but the page."""
    for backend in BACKENDS:
        for name in _WORKLOADS:
            yield Step("bench", backend, name, partial(_bench, backend, name, scale))
    for rival in RIVALS:
        yield Step("peers", rival.backend, f"{rival.peer}-{rival.store}", partial(_rival, rival, scale))
    for backend in BACKENDS:
        for what in _GROWTH:
            yield Step("growth", backend, what, partial(_growth, backend, what, scale))


def _bench(backend: str, name: str, scale: Scale) -> dict[str, Any]:
    effort = scale.effort
    more = ["--repeats", str(effort.repeats), "--seconds", str(effort.seconds)]
    if scale is BRIEF:
        more += ["--sessions", str(effort.sessions), "--turns", str(effort.turns), "--messages", str(effort.length)]
    if name == "long":
        more += ["--messages", str(scale.longest(backend))]
    picture = scale.docs / "performance" / f"{backend}.png"
    if name == _CURVES:
        picture.parent.mkdir(parents=True, exist_ok=True)
        more += ["--plot", str(picture)]
    with empty(backend) as url:
        found = _json([sys.executable, "-m", "agentstore", "bench", "--url", url, "--json", *_WORKLOADS[name], *more])
    if name == _CURVES:
        shrink(picture)
    return found


def _rival(rival: Any, scale: Scale) -> dict[str, Any]:
    with empty(rival.backend) as ours, empty(rival.backend, peer=True) as theirs:
        return measure(rival, ours, theirs, scale.effort)


def _growth(backend: str, what: str, scale: Scale) -> dict[str, Any]:
    most = {"sessions": scale.fullest(backend), "concurrency": scale.tasks}.get(what, scale.longest(backend))
    command = [sys.executable, str(HERE / "growth.py"), what, "--most", str(most), "--times", str(scale.times)]
    with empty(backend) as url:
        return _json([*command, "--url", url])


def _json(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise StepError(done.stderr.strip() or f"it ended with {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class StepError(Exception):
    """A step that did not end well, in the words of its process."""


def run(chosen: list[Step], results: Path, console: Console) -> int:
    """Measure, and store each result as it comes; how many steps failed."""
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        *(TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()),
    )
    failed = 0
    with Progress(*columns, console=console, speed_estimate_period=3600) as bar:
        task = bar.add_task("", total=len(chosen))
        for step in chosen:
            title = f"{step.part} {step.backend} {step.name}"
            bar.update(task, description=title)
            if not console.is_terminal:
                console.print(title)
            try:
                found = step.run()
            except (StepError, MissingServerError, OursError) as error:
                failed += 1
                found = {"failed": str(error)}  # else what was found before would pass for today's
                bar.console.print(f"{title} failed: {str(error).splitlines()[-1]}", markup=False, highlight=False)
            path = results / step.part / f"{step.backend}-{step.name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": asdict(Machine.here())} | found, indent=1))
            bar.advance(task)
    return failed


def _arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, Scale]:
    scale = Scale(Effort())
    parser = argparse.ArgumentParser(description="Measure everything, and write docs/performance.md.")
    several: dict[str, Any] = {"action": "append", "metavar": "NAME"}
    parser.add_argument("--part", choices=PARTS, **several, help=f"{', '.join(PARTS)}; again for others [default: all]")
    parser.add_argument("--backend", choices=BACKENDS, **several, help="again for others [default: all that are there]")
    parser.add_argument("--name", **several, help="of a workload, a peer or a kind of growth; again for others")
    parser.add_argument("--repeats", type=int, default=scale.effort.repeats, help="samples of each side")
    parser.add_argument("--deep", type=int, default=scale.deep, help="messages of the longest session on the disk")
    parser.add_argument("--far", type=int, default=scale.far, help="the same on servers")
    parser.add_argument("--sessions", type=int, default=scale.sessions, help="in the fullest store")
    parser.add_argument("--brief", action="store_true", help="only see that all runs: the figures mean nothing")
    parser.add_argument("--list", action="store_true", help="tell the steps, and measure none")
    options = parser.parse_args(arguments)
    for name in ("repeats", "deep", "far", "sessions"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} begins at 1")
    if options.brief:
        return options, BRIEF
    return options, Scale(Effort(repeats=options.repeats), options.deep, options.far, options.sessions)


def select(options: argparse.Namespace, scale: Scale) -> list[Step]:
    """The steps that were asked for; without `--backend` those of a missing server are left out."""
    parts, backends = options.part or PARTS, options.backend or [one for one in BACKENDS if has(one)]
    return [
        step
        for step in steps(scale)
        if step.part in parts
        and step.backend in backends
        and (not options.name or any(f"{step.name}-".startswith(f"{name}-") for name in options.name))
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for, then write the page if it was."""
    options, scale = _arguments(arguments)
    chosen = select(options, scale)
    if options.list:
        for step in chosen:
            print(step.part, step.backend, step.name)
        return 0
    failed = 0
    if chosen:
        with synced("redis"):
            failed = run(chosen, scale.results, Console(stderr=True))
    if "page" in (options.part or PARTS):
        print(f"Written: {write_page(scale.results, scale.docs)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
