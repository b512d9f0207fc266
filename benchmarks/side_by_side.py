"""agentstore and a peer at the same work, in turns, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any

from environments import UnavailableError, environment, versions

if TYPE_CHECKING:
    from collections.abc import Callable

    from rivals import Rival

HERE = Path(__file__).parent
PEERS = HERE / "peers"
_OURS = "agentstore"
_PATIENCE = 300.0  # seconds for one command; a peer that hangs is told, and ended
_READ, _LENGTH, _SESSIONS, _READERS = 50, 200, 8, 32
_WARM_UP = 0.2  # of a sample


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done.

    Attributes:
        repeats: Samples of each side.
        seconds: The longest that a sample may take.
        sessions: How many at once.
        turns: Of each of them.
        length: Messages of a session that is read.
    """

    repeats: int = 5
    seconds: float = 2.0
    sessions: int = 64
    turns: int = 50
    length: int = _LENGTH


class OursError(Exception):
    """agentstore's own side failed: no figure may come of that."""


class Worker:
    """A process that has a store, and does what it is asked."""

    def __init__(self, python: str | Path, peer: str, store: str, url: str, folder: Path) -> None:
        self._error = OursError if peer == _OURS else UnavailableError
        self._log = folder / f"{peer}.log"
        home = folder / f"{peer}-home"  # whatever else a peer may write
        home.mkdir(exist_ok=True)
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [str(python), "-P", str(HERE / "runner.py"), str(PEERS / f"{peer}.py"), store, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                cwd=home,
                env=os.environ | {"HOME": str(home), "PRAISONAI_HOME": str(home), "PRAISONAI_TELEMETRY_DISABLED": "1"},
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have a command carried out; its answer.

        Raises:
            UnavailableError: A peer's failed, ended, or took too long.
            OursError: agentstore's did.
        """
        to, back = self._pipes()
        guard = threading.Timer(_PATIENCE, self._process.kill)
        guard.start()
        try:
            to.write(json.dumps({"do": do, **arguments}) + "\n")
            to.flush()
            line = back.readline()
        except BrokenPipeError:
            line = ""
        finally:
            guard.cancel()
        if not line:
            self._process.wait()
            told = self._log.read_text().strip().splitlines()
            raise self._error(f"its process ended at {do}: {told[-1] if told else 'without a word'}")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise self._error(f"{do}: {answer['failed']}")
        return answer

    def end(self) -> None:
        """Let it go, by force if it does not by itself."""
        to, back = self._pipes()
        with suppress(BrokenPipeError):
            to.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        back.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process was started without pipes")
        return self._process.stdin, self._process.stdout


class Side:
    """Its process, and what it has acknowledged."""

    def __init__(self, start: Callable[[], Worker]) -> None:
        self._start = start
        self.worker = start()
        self.acknowledged: dict[str, list[int]] = {}
        self.errors: Counter[str] = Counter()

    def append(self, **arguments: Any) -> dict[str, Any]:
        """A sample of turns, whose acknowledgements are kept."""
        answer = self.worker.ask("append", **arguments)
        self.acknowledged |= answer.pop("acknowledged")
        return self._noted(answer)

    def read(self, **arguments: Any) -> dict[str, Any]:
        """A sample of reads."""
        return self._noted(self.worker.ask("read", **arguments))

    def _noted(self, answer: dict[str, Any]) -> dict[str, Any]:
        self.errors.update(answer.pop("errors"))
        return answer

    def end(self) -> None:
        """Let its process go."""
        self.worker.end()

    def audit(self) -> dict[str, Any]:
        """What another process finds of what was acknowledged."""
        self.worker.ask("close")
        self.worker.end()
        self.worker = self._start()
        try:
            self.worker.ask("open")
            found = self.worker.ask("audit", acknowledged=self.acknowledged)
        except UnavailableError as error:  # the figures stand, but nobody knows what is there
            found = {"lost": None, "disordered": 0, "errors": {str(error): 1}}
        turns = sum(map(len, self.acknowledged.values()))
        return found | {"acknowledged": turns, "failed": self.errors.total(), "refused": dict(self.errors)}


def measure(rival: Rival, ours_url: str, theirs_url: str, effort: Effort) -> dict[str, Any]:
    """The figures of one rival; if there are none, the reason.

    Raises:
        OursError: agentstore failed.
    """
    head = {
        "backend": rival.backend,
        "peer": rival.peer,
        "name": rival.name,
        "less": rival.less,
        "tuned": rival.tuned,
        "version": versions(rival.peer),
    }
    try:
        return head | _measured(rival, environment(rival.peer), (ours_url, theirs_url), effort)
    except UnavailableError as error:
        return head | {"unavailable": str(error)}


def _measured(rival: Rival, python: Path, urls: tuple[str, str], effort: Effort) -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="side-by-side-")))

        def side(python: str | Path, peer: str, store: str, url: str) -> Side:
            made = Side(lambda: Worker(python, peer, store, url, folder))
            stack.callback(made.end)
            return made

        ours = side(sys.executable, _OURS, _OURS, urls[0])
        theirs = side(python, rival.peer, rival.store, urls[1])
        settings = [one.worker.ask("open")["settings"] for one in (ours, theirs)]
        cases = [*_appends(ours, theirs, effort), *_reads(ours, theirs, effort)]
        return {
            "repeats": effort.repeats,
            "settings": {"ours": settings[0], "theirs": settings[1]},
            "cases": cases,
            "audit": {"ours": ours.audit(), "theirs": theirs.audit()},
        }


def _appends(ours: Side, theirs: Side, effort: Effort) -> list[dict[str, Any]]:
    def case(what: str, sessions: int, turns: int, name: str) -> dict[str, Any]:
        def sample(side: Side, number: int, part: float) -> dict[str, Any]:
            each, longest = max(1, round(turns * part)), effort.seconds * part
            return side.append(name=f"{name}{number}", sessions=sessions, turns=each, seconds=longest)

        return _in_turns(what, "turns", (ours, theirs), effort.repeats, sample)

    return [
        case("one session", 1, 6 * effort.turns, "one"),
        case("many sessions", effort.sessions, effort.turns, "many") | {"callers": effort.sessions},
    ]


def _reads(ours: Side, theirs: Side, effort: Effort) -> list[dict[str, Any]]:
    what = {"name": "read", "sessions": _SESSIONS, "length": effort.length}
    for side in (ours, theirs):
        side.worker.ask("fill", **what)

    def case(name: str, callers: int, each: int) -> dict[str, Any]:
        def sample(side: Side, number: int, part: float) -> dict[str, Any]:
            del number
            work = {"callers": callers, "each": max(1, round(each * part)), "seconds": effort.seconds * part}
            return side.read(limit=min(_READ, effort.length), **what, **work)

        return _in_turns(name, "loads", (ours, theirs), effort.repeats, sample) | {"callers": callers}

    return [
        case("newest 50, one at a time", 1, 6 * effort.turns),
        case(f"newest 50, {_READERS} at once", _READERS, effort.turns),
    ]


def _in_turns(
    name: str, unit: str, sides: tuple[Side, Side], repeats: int, sample: Callable[[Side, int, float], dict[str, Any]]
) -> dict[str, Any]:
    """After a warm-up each does its sample, and each begins half of the time; medians."""
    ours, theirs = sides
    samples: dict[Side, list[dict[str, Any]]] = {ours: [], theirs: []}
    for repeat in range(repeats + 1):
        for side in (ours, theirs) if repeat % 2 else (theirs, ours):
            taken = sample(side, repeat, 1.0 if repeat else _WARM_UP)
            if repeat:
                samples[side].append(taken)
    rates = {side: [one["operations"] / one["seconds"] for one in taken] for side, taken in samples.items()}
    ratios = [mine / other for mine, other in zip(rates[ours], rates[theirs], strict=True) if other]
    figures = {who: _figures(samples[side], rates[side]) for who, side in (("ours", ours), ("theirs", theirs))}
    return {"name": name, "unit": unit, "ratio": median(ratios) if ratios else None, "ratios": ratios} | figures


def _figures(samples: list[dict[str, Any]], rates: list[float]) -> dict[str, Any]:
    times = {part: [one[part] for one in samples if one[part] is not None] for part in ("p50", "p99")}
    return {"rate": median(rates)} | {part: median(all_) if all_ else None for part, all_ in times.items()}
