"""What is to be reached, and whether it is. Why something is not stands in `notes.toml`, written by hand."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from stored import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from stored import Stored

_NOTES = Path(__file__).parent / "notes.toml"


def _everywhere(bound: float) -> dict[str, float]:
    return dict.fromkeys(TITLES, bound)


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        key: Its name in the notes.
        words: What is measured.
        bounds: What is to be reached, by backend.
        value: Asks the results of a backend.
        least: Whether a bound is the least that will do, else the most.
        form: How a value is written.
    """

    key: str
    words: str
    bounds: dict[str, float]
    value: Callable[[Stored, str], float | None]
    least: bool = True
    form: str = "{:.2f}"

    def of(self, stored: Stored, backend: str) -> float | None:
        """What was measured, where it is a goal."""
        return self.value(stored, backend) if backend in self.bounds else None

    def reached(self, backend: str, value: float) -> bool:
        """Whether that will do."""
        return value >= self.bounds[backend] if self.least else value <= self.bounds[backend]

    def asked(self, backend: str | None = None) -> str:
        """The bound of a backend in words, or those of all."""
        least = "at least" if self.least else "at most"
        if backend is not None:
            return f"{least} {self.form.format(self.bounds[backend])}"
        parts = []
        for bound, group in groupby(sorted(self.bounds, key=self.bounds.__getitem__), self.bounds.__getitem__):
            names = [TITLES[name] for name in group]
            where = "" if len(names) == len(TITLES) else f" ({', '.join(names)})"
            parts.append(f"{self.form.format(bound)}{where}")
        return f"{least} {'; '.join(parts)}"


def _ratio(name: str, which: int, other: str = "") -> Callable[[Stored, str], float | None]:
    return partial(_of, name=name, which=which, other=other)


def _of(stored: Stored, backend: str, *, name: str, which: int, other: str) -> float | None:
    return stored.ratio(backend, name, which, other)


def _peer(stored: Stored, backend: str) -> float | None:
    found = stored.best_peer(backend)
    return None if found is None else found[0]


_NEWEST = {"sqlite": 1.0, "mysql": 1.0, "redis": 1.0, "postgresql": 2.0}
_PEERS = {"sqlite": 4.0, "postgresql": 4.0, "redis": 4.0, "mysql": 2.0, "json": 15.0}
_MEMORY = 'a turn accepted (`"memory"`), to `json.dumps` of it'

GOALS = (
    Goal("sequential", "turns of one session, to one commit each by hand", _everywhere(0.8), _ratio("sequential", 0)),
    Goal("append", "64 sessions at once, to a group commit by hand", _everywhere(0.8), _ratio("append", -1, "group")),
    Goal("resume", "newest 50, one at a time, to a select by hand", _everywhere(0.8), _ratio("resume", 0)),
    Goal("resume-at-once", "newest 50, 32 at once, to one select each", _NEWEST, _ratio("resume", 1)),
    Goal("state", "a value set and read, to two statements by hand", _everywhere(0.8), _ratio("state", 0)),
    Goal("state-at-once", "64 values at once, to one statement each", _everywhere(2.0), _ratio("state", 1)),
    Goal("memory", _MEMORY, _everywhere(3.0), _ratio("memory", 0), least=False),
    Goal("agent", "what `achat` adds to its model", _everywhere(0.05), _ratio("agent", 0), least=False, form="{:.1%}"),
    Goal("peer", "64 sessions at once, to the best peer as it comes", _PEERS, _peer),
    Goal("long", "newest 20 of the longest session, to 20 of 200", _everywhere(1.2), _ratio("long", 0), least=False),
)


def notes() -> dict[str, dict[str, str]]:
    """Why goals are not reached: by goal, then by backend or ``all``."""
    found: dict[str, dict[str, str]] = tomllib.loads(_NOTES.read_text(encoding="utf-8"))
    return found
