"""The log of a writer: a line of JSON for each intent and each answer, written before anything else happens.

One `os.write` a line: it is with the operating system when it returns, and survives ``kill -9`` of its process.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

What = Literal["append", "set", "pop"]


class Logbook:
    """The writing side; `n` numbers the calls."""

    def __init__(self, path: str | Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._calls = 0

    def note(self, kind: str, **fields: Any) -> None:
        """Write a line."""
        line = {"is": kind, "at": time.monotonic(), **fields}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def intend(self, what: What, place: str, **fields: Any) -> int:
        """Note what will be called; the call's number."""
        self._calls += 1
        self.note("intent", n=self._calls, what=what, place=place, **fields)
        return self._calls


@dataclass
class Call:
    """One call of a writer, and how it ended.

    Attributes:
        what: Which method.
        place: The session, or the key.
        began: When, on the clock that all processes of a machine share and nobody sets.
        ids: The messages of an append, in their order.
        numbers: Theirs; they rise in each session of a writer.
        value: What a set sets.
        count: How many a pop takes.
        outcome: None: it never came back.
        ended: When it came back.
        given: An acknowledged append's seqs (None where they are not known yet), a pop's ids, a set's version.
        error: The names of the error's classes, its own first.
        text: What the error says.
    """

    what: What
    place: str
    began: float
    ids: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    value: int = 0
    count: int = 0
    outcome: Literal["ack", "error"] | None = None
    ended: float = float("inf")
    given: Any = None
    error: list[str] = field(default_factory=list)
    text: str = ""


@dataclass
class Story:
    """What one writer's log says.

    Attributes:
        writer: Its name, which begins its messages.
        calls: In the order begun.
        notes: All other lines.
    """

    writer: str
    calls: list[Call] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)


def read(path: Path) -> Story:
    """The story so far of the log at `path`, which is named after its writer."""
    story, calls = Story(path.stem), {}
    for line in lines(path.read_bytes()):
        kind, n, at = line.pop("is"), line.pop("n", 0), line.pop("at")
        if kind == "intent":
            calls[n] = Call(began=at, **line)
        elif kind in {"ack", "error"}:
            call = calls[n]
            call.outcome, call.ended = kind, at
            for name, value in line.items():
                setattr(call, name, value)
        else:
            story.notes.append({"is": kind, "at": at, **line})
    story.calls = list(calls.values())
    return story


def lines(text: bytes) -> Iterator[dict[str, Any]]:
    """The whole lines of a log; the last may be torn by a kill."""
    for line in text.split(b"\n")[:-1]:
        yield json.loads(line)
