"""One store at work in a process of its own: ``python -P runner.py peers/NAME.py STORE URL``.

Everything measured beside others goes through this file, agentstore as well as its peers; it needs nothing but the
standard library, for each runs in an environment of its own. The script named has ``STORES``: classes that answer
`Store`. Commands come as lines of JSON on stdin, and each is answered by one on stdout, see `Commands`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import sys
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

_TOLD = 300  # characters of an error
_PREPARING = 8  # sessions filled at once


class Store(Protocol):
    """What a peer's script makes of the peer. It is made within a running event loop, by ``Store(url)``."""

    async def aopen(self) -> dict[str, str]:
        """Connect, make tables; how it is set, in words."""
        ...

    def prepare(self, session: str) -> None:
        """Make whatever object stands for a session, outside the time; a store that has none leaves this out."""

    async def append(self, session: str, user: str, assistant: str) -> None:
        """A turn, as durable before it returns as the store can make it."""
        ...

    async def last(self, session: str, limit: int | None) -> list[str]:
        """The texts of the newest messages, or of all, oldest first."""
        ...

    async def aclose(self) -> None:
        """Disconnect."""
        ...


def turn(number: int) -> tuple[str, str]:
    """200 B of the user's, 800 B of the assistant's; each begins with its place in the session."""
    return f"{2 * number:08d} ".ljust(200, "u"), f"{2 * number + 1:08d} ".ljust(800, "a")


def place(text: str) -> int:
    """The place of a message in its session."""
    return int(text[:8])


class Commands:
    """What can be asked of a store. Each method is a command; its arguments are those of the line."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def _prepare(self, sessions: Iterable[str]) -> None:
        prepare = getattr(self._store, "prepare", None)
        if prepare is not None:
            for session in sessions:
                prepare(session)

    async def open(self) -> dict[str, Any]:
        """Its settings."""
        return {"settings": await self._store.aopen()}

    async def append(self, name: str, sessions: int, turns: int, seconds: float) -> dict[str, Any]:
        """Turns of new sessions at once; those that were acknowledged, by session, and the errors of the others."""
        acknowledged: dict[str, list[int]] = {f"{name}-{number}": [] for number in range(sessions)}
        latencies: list[float] = []
        errors: Counter[str] = Counter()

        async def talk(session: str) -> None:
            for number in range(turns):
                begin = perf_counter()
                if number and begin >= deadline:
                    return
                try:
                    await self._store.append(session, *turn(number))
                except Exception as error:  # noqa: BLE001  a peer's, of any kind: what counts is that it came
                    errors[_said(error)] += 1
                    continue
                latencies.append(perf_counter() - begin)
                acknowledged[session].append(number)

        self._prepare(acknowledged)
        gc.collect()
        start = perf_counter()
        deadline = start + seconds
        await asyncio.gather(*map(talk, acknowledged))
        return _sample(latencies, perf_counter() - start) | {"acknowledged": acknowledged, "errors": dict(errors)}

    async def fill(self, name: str, sessions: int, length: int) -> dict[str, Any]:
        """Sessions of so many messages, to be read."""
        places = asyncio.Semaphore(_PREPARING)

        async def fill(session: str) -> None:
            async with places:
                for number in range(length // 2):
                    await self._store.append(session, *turn(number))

        names = [f"{name}-{number}" for number in range(sessions)]
        self._prepare(names)
        await asyncio.gather(*map(fill, names))
        return {}

    async def read(
        self, *, name: str, sessions: int, length: int, limit: int, callers: int, each: int, seconds: float
    ) -> dict[str, Any]:
        """The newest messages of one session after another, by so many callers at once."""
        latencies: list[float] = []
        errors: Counter[str] = Counter()
        expected = list(range(length - limit, length))

        async def read(caller: int) -> None:
            for number in range(each):
                begin = perf_counter()
                if number and begin >= deadline:
                    return
                try:
                    found = await self._store.last(f"{name}-{(caller + number) % sessions}", limit)
                except Exception as error:  # noqa: BLE001  as above
                    errors[_said(error)] += 1
                    continue
                latencies.append(perf_counter() - begin)
                if [place(text) for text in found] != expected:
                    errors["not the newest messages, oldest first"] += 1

        gc.collect()
        start = perf_counter()
        deadline = start + seconds
        await asyncio.gather(*map(read, range(callers)))
        return _sample(latencies, perf_counter() - start) | {"errors": dict(errors)}

    async def audit(self, acknowledged: dict[str, list[int]]) -> dict[str, Any]:
        """How many acknowledged turns are not there whole, and how many sessions are out of order."""
        self._prepare(acknowledged)
        lost = disordered = 0
        errors: Counter[str] = Counter()
        for session, numbers in acknowledged.items():
            try:
                found = [place(text) for text in await self._store.last(session, None)]
            except Exception as error:  # noqa: BLE001  as above
                errors[_said(error)] += 1
                lost += len(numbers)
                continue
            lost += sum(not {2 * number, 2 * number + 1} <= set(found) for number in numbers)
            disordered += found != sorted(found)
        return {"lost": lost, "disordered": disordered, "errors": dict(errors)}

    async def close(self) -> dict[str, Any]:
        """Disconnect; no command follows."""
        await self._store.aclose()
        return {}


def _said(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_TOLD]


def _sample(latencies: list[float], seconds: float) -> dict[str, Any]:
    latencies.sort()
    last = len(latencies) - 1
    p50, p99 = (latencies[round(last * part)] if latencies else None for part in (0.50, 0.99))
    return {"operations": len(latencies), "seconds": seconds, "p50": p50, "p99": p99}


def load(path: str) -> ModuleType:
    """A peer's script, under a name that hides no package."""
    spec = importlib.util.spec_from_file_location("the_peer", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python script")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


async def serve(script: str, store: str, url: str, answers: int) -> None:
    """Carry out commands until there are none."""
    commands = Commands(load(script).STORES[store](url))
    with os.fdopen(answers, "w", encoding="utf-8") as out:
        while line := sys.stdin.readline():  # nothing else runs between two commands
            request = json.loads(line)
            try:
                answer = await getattr(commands, request.pop("do"))(**request)
            except Exception as error:  # noqa: BLE001  who asked is told
                answer = {"failed": _said(error)}
            out.write(json.dumps(answer) + "\n")
            out.flush()


if __name__ == "__main__":
    answers = os.dup(1)
    os.dup2(2, 1)  # what a peer prints is no answer
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3], answers))
