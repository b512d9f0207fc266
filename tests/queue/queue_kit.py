"""A backend that a test can hold, take away and make refuse; its data stay when a Database is closed."""

import asyncio
from contextlib import contextmanager

from agentstore import Message, QueueOptions, RetryOptions, db
from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import CorruptRecordError, UnavailableError
from agentstore.protocol import Append
from agentstore.url import StoreURL

SPEC = f"{__name__}:Puppet"


class Strings:
    """What a test pulls.

    Attributes:
        held: Writes do not come back.
        waiting: Batches that do not come back.
        down: Nothing can be reached.
        blinks: Asked before each write, whether it cannot be reached just then.
        mute: Writes are stored, and nobody hears of it.
        poison: Contents that upset a whole batch, and values.
        batches: What went down, in order.
    """

    def __init__(self):
        self.held = self.down = self.mute = False
        self.waiting = 0
        self.blinks = lambda: False
        self.poison = set()
        self.batches = []
        self.data = {}

    @contextmanager
    def holding(self):
        self.held = True
        try:
            yield
        finally:
            self.held = False


STRINGS = {}


class Puppet(MemoryBackend):
    def __init__(self, url, pool):
        super().__init__(StoreURL("memory"), pool)
        self.strings = STRINGS.setdefault(url.path, Strings())
        for name in ("_lock", "_sessions", "_logs", "_items", "_floors", "_marks"):
            setattr(self, name, self.strings.data.setdefault(name, getattr(self, name)))

    async def write(self, run, batch):
        self.check()
        if self.strings.blinks():
            raise UnavailableError("the puppet blinks")
        for op in batch:
            texts = [m.content for m in op.messages] if isinstance(op, Append) else getattr(op, "items", {}).values()
            if self.strings.poison.intersection(map(str, texts)):
                raise CorruptRecordError(f"{list(texts)} is poison")
        self.strings.waiting += 1
        while self.strings.held:
            await asyncio.sleep(0.002)
        self.strings.waiting -= 1
        self.check()
        self.strings.batches.append(list(batch))
        told = await run(batch)
        if self.strings.mute:
            raise UnavailableError("the puppet is mute", passing=False)
        return told

    async def append(self, batch):
        return await self.write(super().append, batch)

    async def write_items(self, batch):
        return await self.write(super().write_items, batch)

    def check(self):
        if self.strings.down:
            raise UnavailableError("the puppet is down")


def _checked(name):
    async def call(self, *args, **kwargs):
        self.check()
        return await getattr(super(Puppet, self), name)(*args, **kwargs)

    return call


for _name in ("aopen", "ping", "read", "find", "heads", "list_sessions", "pop", "clear", "update", "delete", "restore"):
    setattr(Puppet, _name, _checked(_name))
for _name in ("get_items", "scan", "purge_sessions", "purge_state"):
    setattr(Puppet, _name, _checked(_name))


def make(tmp_path, name="store", *, durability="memory", retry=None, **queue):
    """A Database on a puppet, and a way to its strings."""
    fallback = queue.pop("fallback", None)
    options = QueueOptions(journal_dir=tmp_path / "journals", **queue)
    database = db(
        f"puppet:///{tmp_path.name}/{name}",
        durability=durability,
        fallback=fallback,
        queue=options,
        retry=retry or RetryOptions(attempts=1, deadline=5.0),
    )
    return database, STRINGS.setdefault(f"/{tmp_path.name}/{name}", Strings())


def say(content, **fields):
    return Message("user", content, **fields)


async def said(database, session_id="s", **bounds):
    return [message.content for message in await database.messages(session_id, **bounds)]


async def until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)
