"""``python tests/faults``: play all scenarios at length; 1 if anything was lost, doubled, out of order or amiss."""

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path[0] = str(Path(__file__).parents[1])  # the package, and the servers beside it

import servers  # noqa: E402  it is found there
from faults.kit import StuckError  # noqa: E402
from faults.report import COLUMNS, Report, total  # noqa: E402
from faults.scenarios import SCENARIOS, Scenario  # noqa: E402

BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def main() -> int:
    arguments = _arguments()
    chosen = [scenario for scenario in SCENARIOS if _wanted(scenario.title, arguments.only)]
    if not chosen:
        print(f"no scenario has any of {arguments.only} in its title", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    run = servers.Run()
    os.environ[servers.RUN] = str(run.root)
    try:
        results = _play(chosen, arguments, console)
    finally:
        run.close()
    table = Table()
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == COLUMNS[0] else "right", no_wrap=True)
    for title, report in results.items():
        table.add_row(*report.row(title), style="red" if report.problems else None)
    console.print(table)
    for title, report in results.items():
        if report.problems:
            console.print(f"{title}: {report}", markup=False, highlight=False)
    if arguments.write:
        _write(arguments.write, results)
    return int(any(report.problems for report in results.values()))


def _wanted(title: str, only: list[str]) -> bool:
    return not only or any(words in title for words in only)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__)
    parser.add_argument(
        "--only", action="append", default=[], metavar="WORDS", help="scenarios with this in the title; may come again"
    )
    parser.add_argument("--rounds", type=int, help="how often each breaks something (by default each has its own)")
    parser.add_argument("--seconds", type=float, help="how long those last that last for a time")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of this document")
    return parser.parse_args()


def _play(chosen: list[Scenario], arguments: argparse.Namespace, console: Console) -> dict[str, Report]:
    """What each scenario found, by title."""
    results = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        for scenario in chosen:
            given = {name: getattr(arguments, name) for name in ("rounds", "seconds")}
            effort = replace(scenario.long, **{name: value for name, value in given.items() if value is not None})
            steps = int(effort.seconds) if scenario.long.seconds else effort.rounds
            task = progress.add_task(scenario.title, total=steps)
            found = []
            try:
                for report in scenario.rounds(effort):
                    found.append(report)
                    progress.advance(task, report.rounds)
            except StuckError as error:
                stuck = Report()
                stuck.blame("other", str(error))
                found.append(stuck)
            results[scenario.title] = total(found)
            progress.update(task, completed=steps)
    return results


def _write(document: Path, results: dict[str, Report]) -> None:
    """Put the table, and the command that made it, between the document's markers."""
    rows = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *(report.row(title) for title, report in results.items())]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    command = shlex.join(["python", "tests/faults", *sys.argv[1:]])
    before, _, rest = document.read_text("utf-8").partition(BEGIN)
    _, marker, after = rest.partition(END)
    if not marker:
        sys.exit(f"{document} does not hold {BEGIN} and {END}")
    made = "\n".join([BEGIN, f"Made by `{command}`:", "", *lines, END])
    document.write_text(before + made + after, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
