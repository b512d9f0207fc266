"""Writers as child processes, and the field they work on: one store, watched from outside."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from . import logbook
from .audit import Store, compare, look
from .report import Report
from .writer import SCOPE, Job, database_of

DURABILITIES = ("commit", "journal")
"""What there is of "commit", "journal", "memory": each scenario is played with each."""

FALLBACKS: tuple[str | None, ...] = (None, "journal", "memory")
"""What there is of None, "journal", "memory"."""

PATIENCE = 60.0
"""Seconds for what takes a moment, unless it never comes."""


class StuckError(AssertionError):
    """What a scenario waits for does not come: a call hangs, or a writer has died."""


class Writer:
    """A child process that does a `Job`; `log` says what it has done so far."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self.job, self.path = job, Path(job.log)
        self.acknowledged: dict[str, int] = dict.fromkeys((*job.sessions, *job.keys), 0)
        self.refused: dict[str, int] = dict.fromkeys((*job.sessions, *job.keys), 0)
        self.opened = False
        self.memory = [0]  # bytes, each quarter of a second
        self._places: dict[int, str] = {}
        self._offset = 0
        self.path.touch()
        self._errors = self.path.with_suffix(".stderr")
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "faults.writer", json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stderr=errors,
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "PYTHONWARNINGS": "error",
                    **environment,
                },
            )

    def look(self) -> None:
        """Read what is new in the log."""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        self._offset += text.rfind(b"\n") + 1
        for line in logbook.lines(text):
            kind = line["is"]
            if kind == "intent":
                self._places[line["n"]] = line["place"]
            elif kind in {"ack", "error"}:
                count = self.acknowledged if kind == "ack" else self.refused
                count[self._places.pop(line["n"])] += 1
            elif kind == "memory":
                self.memory.append(line["bytes"])
            self.opened = self.opened or kind == "open"

    def until(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
        """Wait until `condition` holds of what the log says."""
        deadline = time.monotonic() + patience
        while True:
            ended = self._process.poll() is not None
            self.look()
            if condition():
                return
            if ended or time.monotonic() > deadline:
                raise StuckError(f"{self.job.name} {'has ended' if ended else 'is stuck'}: {what}\n{self._state()}")
            time.sleep(0.005)

    def until_more(self, count: int) -> None:
        """Wait for so many more acknowledgements."""
        self.look()
        before = sum(self.acknowledged.values())
        self.until(lambda: sum(self.acknowledged.values()) >= before + count, f"{count} more acknowledgements")

    def until_each(self, kind: str = "acknowledged", count: int = 1) -> None:
        """Wait until a call of each session came back so from now on ("acknowledged" or "refused")."""
        self.look()
        counts: dict[str, int] = getattr(self, kind)
        before = dict(counts)
        self.until(lambda: all(counts[s] >= before[s] + count for s in self.job.sessions), f"each session {kind}")

    def until_felt(self, count: int = 1) -> None:
        """Wait until a fault has met each session: calls were refused, or went on without the backend if they may."""
        self.until_each("acknowledged" if self.job.deferred else "refused", count)

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()
        self._process.wait()
        self._close()

    def stop(self) -> None:
        """Let it end in good order."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise StuckError(f"{self.job.name} does not end\n{self._state()}") from None
        if code or self._errors.stat().st_size:
            raise StuckError(f"{self.job.name} ended with {code}\n{self._state()}")

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _state(self) -> str:
        tail = self.path.read_text().splitlines()[-8:]
        return "\n".join(["its log ends with", *tail, "its stderr", self._errors.read_text()[-4000:]])

    @property
    def running(self) -> bool:
        return self._process.poll() is None


class Field:
    """A store, all writers that ever wrote to it, and their logs.

    Args:
        direct: The URL of the store, as an auditor reaches it, and the writers, unless their job says otherwise.
        folder: For logs and journals; it exists.
        job: What all writers have in common: fields of `Job`.
    """

    def __init__(self, direct: str, folder: Path, **job: Any) -> None:
        self.direct, self.folder, self._job = direct, folder, job
        self.writers: list[Writer] = []
        self.told = (0, 0)
        self.chance = random.Random()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with ExitStack() as stack:
            for writer in self.writers:
                if writer.running:
                    stack.callback(writer.kill)

    def start(self, slot: str = "a", *, environment: dict[str, str] | None = None, **job: Any) -> Writer:
        """Start a writer, and wait until it has opened the store."""
        writer = self.launch(slot, environment=environment, **job)
        writer.until(lambda: writer.opened, "opening the store")
        return writer

    def launch(self, slot: str = "a", *, environment: dict[str, str] | None = None, **job: Any) -> Writer:
        """Start a writer.

        The writers of one `slot` follow one another: on the same sessions and keys, by default four of their own.
        """
        number = len(self.writers)
        sessions = [f"{slot}{n}" for n in range(4)]
        fields = {
            "url": self.direct,
            "name": f"{slot}-{number}",
            "log": str(self.folder / f"{slot}-{number}.log"),
            "sessions": sessions,
            "pops": sessions[-1:],
            "keys": [f"key {name}" for name in sessions[:2]],
            "first": number * 10_000_000,
            "journal_dir": str(self.folder / "journal"),
            "seed": self.chance.randrange(2**32),
            **self._job,
            **job,
        }
        writer = Writer(Job(**fields), environment or {})
        self.writers.append(writer)
        return writer

    def stop(self) -> None:
        """Let all that run end in good order."""
        for writer in self.writers:
            if writer.running:
                writer.stop()

    def calls(self) -> list[logbook.Call]:
        """All that was ever called."""
        return [call for story in self._stories() for call in story.calls]

    def audit(self, allowed: tuple[str, ...] = ("UnavailableError",)) -> Report:
        """Compare, when all writers have ended; the figures count from the last audit on."""
        assert not any(writer.running for writer in self.writers)
        report = compare(self._stories(), self._look(), allowed=allowed)
        counted = (report.acknowledged, report.refused)
        report.acknowledged, report.refused = (now - then for now, then in zip(counted, self.told, strict=True))
        self.told = counted
        return report

    def stored_ids(self) -> set[str]:
        """The ids of all messages that are stored now."""
        return {message.id for messages in self._look().sessions.values() for message in messages}

    def went_back(self) -> bool:
        """Whether a message says it was made before the one that precedes it."""
        histories = self._look().sessions.values()
        return any(two.created_at < one.created_at for history in histories for one, two in pairwise(history))

    def _stories(self) -> list[logbook.Story]:
        return [logbook.read(writer.path) for writer in self.writers]

    def _look(self) -> Store:
        """What a fresh Database reads."""
        jobs = [writer.job for writer in self.writers]
        sessions = sorted({name for job in jobs for name in job.sessions})
        keys = sorted({name for job in jobs for name in job.keys})
        auditor = replace(jobs[0], url=self.direct, pool={})

        async def read() -> Store:
            async with database_of(auditor) as database:
                return await look(database, sessions, SCOPE, keys)

        return asyncio.run(read())


def one_round() -> Report:
    """Something was broken once more; the audit follows."""
    return Report(rounds=1)
