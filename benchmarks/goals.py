"""What is to be reached, and whether it is. Why something is not stands in `notes.toml`, written by hand."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stored import TITLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from stored import Stored

_NOTES = Path(__file__).parent / "notes.toml"
_ALL = tuple(TITLES)


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        key: Its name in the notes.
        words: What is measured.
        bound: What is to be reached.
        value: Asks the results of a backend.
        backends: Where it is a goal.
        least: Whether the bound is the least that will do, else the most.
        form: How a value is written.
    """

    key: str
    words: str
    bound: float
    value: Callable[[Stored, str], float | None]
    backends: tuple[str, ...] = _ALL
    least: bool = True
    form: str = "{:.2f}"

    def reached(self, value: float) -> bool:
        """Whether that will do."""
        return value >= self.bound if self.least else value <= self.bound

    @property
    def asked(self) -> str:
        """The bound, in a cell."""
        return f"{'at least' if self.least else 'at most'} {self.form.format(self.bound)}"


def _ratio(name: str, which: int, other: str = "") -> Callable[[Stored, str], float | None]:
    return partial(_of, name=name, which=which, other=other)


def _of(stored: Stored, backend: str, *, name: str, which: int, other: str) -> float | None:
    return stored.ratio(backend, name, which, other)


def _peer(stored: Stored, backend: str) -> float | None:
    found = stored.best_peer(backend)
    return None if found is None else found[0]


_PEER = "64 sessions at once, by the best peer's"
_AT_ONCE = "newest 50, 32 at once, by one select each"

GOALS = (
    Goal("sequential", "turns of one session, by hand's", 0.8, _ratio("sequential", 0)),
    Goal("append", "64 sessions at once, by a group commit by hand", 0.8, _ratio("append", -1, "group")),
    Goal("resume", "newest 50, one at a time, by hand's", 0.8, _ratio("resume", 0)),
    Goal("resume-at-once", _AT_ONCE, 1.0, _ratio("resume", 1), ("sqlite", "mysql", "redis")),
    Goal("resume-at-once", _AT_ONCE, 2.0, _ratio("resume", 1), ("postgresql",)),
    Goal("state", "a value set and read, one at a time, by hand's", 0.8, _ratio("state", 0)),
    Goal("state-at-once", "64 values at once, by one statement each", 2.0, _ratio("state", 1)),
    Goal("memory", 'a turn accepted (`"memory"`), by `json.dumps` of it', 3.0, _ratio("memory", 0), least=False),
    Goal("agent", "what `achat` adds to its model", 0.05, _ratio("agent", 0), least=False, form="{:.1%}"),
    Goal("peer", _PEER, 4.0, _peer, ("sqlite", "postgresql", "redis")),
    Goal("peer", _PEER, 2.0, _peer, ("mysql",)),
    Goal("peer", _PEER, 15.0, _peer, ("json",)),
    Goal("long", "newest 20 of the longest session, by 20 of 200", 1.2, _ratio("long", 0), least=False),
)


def notes() -> dict[str, dict[str, str]]:
    """Why goals are not reached: by goal, then by backend or ``all``."""
    found: dict[str, dict[str, str]] = tomllib.loads(_NOTES.read_text(encoding="utf-8"))
    return found
