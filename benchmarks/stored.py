"""The stored results of the steps, as the page asks for them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Comparison = dict[str, Any]

# In this order everywhere.
TITLES = {
    "sqlite": "SQLite",
    "json": "JSON files",
    "postgresql": "PostgreSQL",
    "mysql": "MySQL/MariaDB",
    "redis": "Redis",
    "mongodb": "MongoDB",
    "clickhouse": "ClickHouse",
}

_URL = re.compile(r"\b[\w+]+://[^\s)]+")
_PATH = re.compile(r"(?<![\w.])(?:/[\w.@+-]+){2,}")
_PORT = re.compile(r"'?\b(?:127\.0\.0\.1|localhost)(?::|'?, )\d+")


def clean(text: str) -> str:
    """A text of somebody else's without what is of one machine alone: URLs, paths, ports; fit for a cell."""
    for pattern, word in ((_URL, "URL"), (_PORT, "SERVER"), (_PATH, "PATH")):
        text = pattern.sub(word, text)
    return " ".join(text.replace("|", "/").replace("`", "'").split())


class Stored:
    """What the steps found, by part, backend and name.

    Attributes:
        failed: The steps that found nothing, with the error.
    """

    def __init__(self, folder: Path) -> None:
        self.failed: dict[str, str] = {}
        self._parts = {part: self._load(folder / part) for part in ("bench", "peers", "growth")}

    def _load(self, folder: Path) -> dict[str, dict[str, Any]]:
        found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
        for name in [name for name, result in found.items() if "failed" in result]:
            self.failed[f"{folder.name} {name}"] = found.pop(name)["failed"].splitlines()[-1]
        return found

    def machines(self) -> list[dict[str, Any]]:
        """Those of all results, by date."""
        found = [result["machine"] for part in self._parts.values() for result in part.values()]
        return sorted(found, key=lambda machine: str(machine["date"]))

    def bench(self, backend: str, name: str) -> dict[str, Any] | None:
        """The result of a workload: settings, findings, comparisons."""
        found = self._parts["bench"].get(f"{backend}-{name}")
        return None if found is None else found["results"][0]

    def comparison(self, backend: str, name: str, which: int) -> Comparison | None:
        """One of a workload's comparisons, in the order in which they were made."""
        found = self.bench(backend, name)
        return None if found is None else found["comparisons"][which]

    def ratio(self, backend: str, name: str, which: int, other: str = "") -> float | None:
        """What stands beside the side whose name contains that."""
        found = self.comparison(backend, name, which)
        beside = [] if found is None else [one for one in found["figures"][1:] if other in one["side"]]
        return beside[0]["ratio"] if beside else None

    def rivals(self, backend: str) -> list[dict[str, Any]]:
        """The peers on a backend."""
        return [one for one in self._parts["peers"].values() if one["backend"] == backend]

    def best_peer(self, backend: str, *, tuned: bool = False) -> tuple[float, str] | None:
        """The least ratio of agentstore to a peer at many sessions, and that peer; as they come, or tuned for it."""
        ratios = [
            (case["ratio"], one["name"])
            for one in self.rivals(backend)
            if bool(one["tuned"]) == tuned
            for case in one.get("cases", [])
            if case["name"] == "many sessions" and case["ratio"] is not None
        ]
        return min(ratios, default=None)

    def growth(self, backend: str, what: str) -> list[dict[str, Any]]:
        """The points of a growth; none if it was not measured."""
        found = self._parts["growth"].get(f"{backend}-{what}")
        return [] if found is None else list(found["points"])
