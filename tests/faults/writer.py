"""A program that writes until it is stopped, or killed: ``python -m faults.writer JOB``, a `Job` as JSON.

A task for each session, one call at a time, so that the order accepted is known. It stops in good order when its stdin
ends: also when whoever started it dies.
"""

import asyncio
import json
import logging
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from agentstore import Database, Message, PoolOptions, QueueOptions, UnavailableError, db

from .logbook import Logbook

SCOPE = "faults"


@dataclass
class Job:
    """What a writer does.

    Attributes:
        url: The store.
        name: The writer's own; no two on one store have the same.
        log: Its log.
        sessions: Where it appends.
        pops: Those of them from which it pops too.
        keys: A key of state for each session: they may outlive the writer.
        first: The lowest value for the keys: above all that the writer's predecessor may have set.
        durability: As of `db`.
        fallback: As of `db`.
        journal_dir: As of `QueueOptions`.
        pool: As of `PoolOptions`.
        rate: Calls per second, of all sessions together; 0: as fast as it goes.
        padding: Characters that each message has besides.
        reads: Read each session after each append, and compare; for sessions of which this is the only writer.
        seed: Of what is done by chance.
    """

    url: str
    name: str
    log: str
    sessions: list[str]
    pops: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    first: int = 0
    durability: str = "commit"
    fallback: str | None = None
    journal_dir: str | None = None
    pool: dict[str, float] = field(default_factory=dict)
    rate: float = 0.0
    padding: int = 0
    reads: bool = False
    seed: int = 0

    @property
    def deferred(self) -> bool:
        """Whether writes may be acknowledged before the backend has them."""
        return self.durability != "commit" or self.fallback is not None


def database_of(job: Job) -> Database:
    """The Database of a job."""
    queue = QueueOptions(journal_dir=job.journal_dir) if job.deferred else None
    return db(job.url, durability=job.durability, fallback=job.fallback, pool=PoolOptions(**job.pool), queue=queue)


class Writer:
    """All that the tasks of one job share."""

    def __init__(self, job: Job, log: Logbook) -> None:
        self.job, self.log = job, log
        self.database = database_of(job)
        self.stopping = asyncio.Event()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._stdin)
        await self._open()
        self.log.note("open")
        measuring = asyncio.create_task(self._measure())
        async with asyncio.TaskGroup() as tasks:
            for place, session in enumerate(self.job.sessions):
                tasks.create_task(Talk(self, session, self.job.keys[place : place + 1]).run())
        measuring.cancel()
        await self.database.aclose()
        self.log.note("end")

    def _stdin(self) -> None:
        if not os.read(sys.stdin.fileno(), 1):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.stopping.set()

    async def _open(self) -> None:
        while not self.stopping.is_set():
            try:
                await self.database.aopen()
            except UnavailableError as error:
                self.log.note("closed", text=str(error))
                await self.pause(0.1)
            else:
                return

    async def _measure(self) -> None:
        while True:
            self.log.note("memory", bytes=_resident())
            await asyncio.sleep(0.25)

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the end."""
        _, pending = await asyncio.wait([waiting := asyncio.create_task(self.stopping.wait())], timeout=seconds)
        if pending:
            waiting.cancel()

    async def call(self, what: Any, place: str, act: Callable[[], Awaitable[Any]], **intent: Any) -> Any:
        """Log the intent, act, log the answer and give it; None after an error."""
        n = self.log.intend(what, place, **intent)
        try:
            answer = await act()
        except Exception as error:  # noqa: BLE001  the audit judges which it may be
            classes = [kind.__name__ for kind in type(error).__mro__]
            self.log.note("error", n=n, error=classes, text=str(error))
            return None
        given = [message.seq for message in answer] if what == "append" else answer
        if what == "pop":
            given = [message.id for message in answer]
        self.log.note("ack", n=n, given=given)
        return given


class Talk:
    """One session, and the writer's one task on it."""

    def __init__(self, writer: Writer, session: str, keys: list[str]) -> None:
        self._writer, self._job, self._session, self._keys = writer, writer.job, session, keys
        self._chance = random.Random(f"{self._job.seed} {self._job.name} {session}")
        self._number, self._value = 0, self._job.first
        self._held: list[str] = []  # ids acknowledged and not popped, in their order
        self._doubtful: set[str] = set()  # ids of which nobody knows
        self._known = self._job.reads

    async def run(self) -> None:
        pace = len(self._job.sessions) / self._job.rate if self._job.rate else 0.0
        await self._writer.pause(self._chance.random() * pace)
        while not self._writer.stopping.is_set():
            start = time.monotonic()
            if not await self._step():
                await self._writer.pause(self._chance.uniform(0.0, 0.1))
            if pace:
                await self._writer.pause(max(0.0, start + pace - time.monotonic()))

    async def _step(self) -> bool:
        dice = self._chance.random()
        if self._keys and dice < 0.1:
            return await self._set()
        if self._session in self._job.pops and dice < 0.25:
            return await self._pop()
        done = await self._append()
        if self._known:
            await self._read()
        return done

    async def _append(self) -> bool:
        """One or several messages; after an error the same again, or never."""
        numbers = [self._number + part for part in range(self._chance.choice((1, 1, 1, 2, 4)))]
        self._number += len(numbers)
        padding = " " + self._job.padding * "x"
        messages = [Message("user", f"{self._job.name}:{number}{padding}") for number in numbers]
        ids = [message.id for message in messages]
        database = self._writer.database
        while True:
            append = self._writer.call(
                "append", self._session, lambda: database.append(self._session, messages), ids=ids, numbers=numbers
            )
            if await append is not None:
                self._held += ids
                self._doubtful.difference_update(ids)
                return True
            self._doubtful.update(ids)
            if self._writer.stopping.is_set() or self._chance.random() < 0.5:
                return False
            await self._writer.pause(self._chance.uniform(0.0, 0.1))

    async def _pop(self) -> bool:
        count = self._chance.choice((1, 1, 2, 3))
        database = self._writer.database
        popped = await self._writer.call("pop", self._session, lambda: database.pop(self._session, count), count=count)
        self._known = self._known and popped is not None
        self._held = [known for known in self._held if known not in (popped or ())]
        return popped is not None

    async def _set(self) -> bool:
        self._value += 1
        (key,), value = self._keys, self._value
        scope = self._writer.database.state.scope(SCOPE)
        return await self._writer.call("set", key, lambda: scope.set(key, value), value=value) is not None

    async def _read(self) -> None:
        """Everything acknowledged so far comes back, or `UnavailableError`: never a part of it."""
        limit = self._chance.choice((1, 10, 50))
        try:
            found = await self._writer.database.messages(self._session, limit=limit)
        except UnavailableError:
            return
        except Exception as error:  # noqa: BLE001  the audit tells it
            self._writer.log.note("misread", place=self._session, text=f"reading raised {error!r}")
            return
        ours = [m.id for m in found if str(m.content).startswith(f"{self._job.name}:") and m.id not in self._doubtful]
        expected = self._held if len(found) < limit else self._held[len(self._held) - len(ours) :]
        if ours != expected:
            pairs = zip_longest(ours, expected)
            at, pair = next((at, pair) for at, pair in enumerate(pairs) if pair[0] != pair[1])
            text = f"of the newest {limit} messages, that at {at} of {len(expected)} is {pair[0]}, not {pair[1]}"
            self._writer.log.note("misread", place=self._session, text=text)


def _resident() -> int:
    """The bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Notes(logging.Handler):
    """Takes what agentstore tells the operator into the log: stderr is for what nobody expects."""

    def __init__(self, log: Logbook) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.note("told", text=record.getMessage())


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    log = Logbook(job.log)
    logging.getLogger("agentstore").addHandler(_Notes(log))
    logging.getLogger("agentstore").propagate = False
    logging.getLogger("asynch").setLevel(logging.CRITICAL)  # it logs all that it raises
    asyncio.run(Writer(job, log).run())


if __name__ == "__main__":
    main()
