"""Random writers and readers on two Databases of one backend that comes and goes, compared with what must be there."""

import asyncio
import random
import time

import pytest
from queue_kit import make, said, say

from agentstore import AgentstoreError, CorruptRecordError, QueueFullError, UnavailableError
from agentstore.queue.journal.segments import Segments

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("puppets")]

BAD = "bad"
KINDS = [
    {"durability": "memory"},
    {"durability": "memory", "fallback": "memory"},
    *[{"durability": "memory", "fallback": "journal"}] * 3,
    {"durability": "journal"},
    {"durability": "journal", "fallback": "memory"},
    {"durability": "commit", "fallback": "journal"},
    {"durability": "commit", "fallback": "memory"},
]


class Writer:
    """The only one who writes to its session and its scope; it writes to a common session too."""

    def __init__(self, name, database, chance):
        self.name = name
        self.database = database
        self.chance = chance
        self.texts, self.shared, self.keys = [], [], {}
        self.count = 0
        self.scope = database.state.scope(name)

    def some(self):
        self.count += 1
        return f"{self.name}-{self.count}"

    async def work(self, steps):
        calls = [self.append] * 4 + [self.share] * 10 + [self.set] * 4
        calls += [self.read] * 4 + [self.window] * 2 + [self.get] * 3 + [self.pop, self.clear, self.bad, self.see]
        for _ in range(steps):
            try:
                await self.chance.choice(calls)()
            except (UnavailableError, QueueFullError, CorruptRecordError):  # the last: in a group with a bad one
                await asyncio.sleep(0.005)
            await asyncio.sleep(self.chance.choice([0, 0, 0, 0.001, 0.01]))

    async def append(self):
        texts = [self.some() for _ in range(self.chance.choice([1, 1, 1, 3]))]
        await self.database.append(self.name, [say(text) for text in texts])
        self.texts += texts

    async def bad(self):
        await self.database.append(self.name, say(BAD))

    async def share(self):
        text = self.some()
        await self.database.append("shared", say(text))
        self.shared.append(text)

    async def set(self):
        items = {self.chance.choice("abc"): self.some() for _ in range(self.chance.choice([1, 1, 2]))}
        await self.scope.set_many(items)
        self.keys |= items

    async def read(self):
        assert good(await said(self.database, self.name)) == self.texts
        seen = await said(self.database, "shared")
        assert [text for text in seen if text.startswith(f"{self.name}-")] == self.shared

    async def see(self):
        session = await self.database.session(self.name)
        assert session is None or session.message_count >= len(self.texts)

    async def window(self):
        limit = self.chance.randint(1, 5)
        seen = await said(self.database, self.name, limit=limit)
        assert good(seen) == self.texts[len(self.texts) - len(good(seen)) :]
        assert len(seen) == limit or good(seen) == self.texts

    async def get(self):
        assert await self.scope.get_many(list("abc")) == self.keys
        assert {item.key: item.value for item in await self.scope.scan()} == self.keys

    async def pop(self):
        popped = await self.database.pop(self.name, 2)
        assert [message.content for message in popped] == self.texts[-2:]
        del self.texts[-2:]

    async def clear(self):
        if self.chance.random() < 0.3:
            assert await self.database.clear(self.name) == len(self.texts)
            self.texts.clear()


def good(texts):
    return [text for text in texts if text != BAD]


async def trouble(strings, chance):
    while True:
        await asyncio.sleep(chance.random() * 0.05)
        strings.held = chance.random() < 0.1
        strings.down = chance.random() < 0.15
        strings.mute = chance.random() < 0.1


@pytest.fixture
def slow_disk(monkeypatch):
    chance, plain = random.Random(0), Segments.append

    def append(self, group):
        time.sleep(chance.choice([0, 0.01, 0.1]))
        return plain(self, group)

    monkeypatch.setattr(Segments, "append", append)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.usefixtures("slow_disk")
async def test_whatever_happens(tmp_path, seed):
    await happen(tmp_path, seed)


async def happen(tmp_path, seed, steps=80):
    chance = random.Random(seed)
    databases = []
    for _ in range(2):
        options = {
            "max_messages": chance.choice([20, 10_000]),
            "timeout": chance.choice([0.05, 1.0]),
            "flush_interval": chance.choice([0.001, 0.05]),
            "close_timeout": chance.choice([0.02, 5.0]),
        }
        database, strings = make(tmp_path, **chance.choice(KINDS), **options)
        databases.append(database)
    strings.poison.add(BAD)
    strings.blinks = lambda: chance.random() < 0.1
    for database in databases:
        await database.aopen()
    writers = [Writer(f"w{number}", databases[number % 2], chance) for number in range(5)]
    troubling = asyncio.create_task(trouble(strings, chance))
    try:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for writer in writers:
                group.create_task(writer.work(steps))
    finally:
        troubling.cancel()
    strings.held = strings.mute = False
    strings.blinks = lambda: False
    strings.down = chance.random() < 0.5
    for database in databases:
        if not strings.down:
            try:
                await database.flush()
            except CorruptRecordError:
                pass
            except AgentstoreError as error:
                raise AssertionError from error
            assert database.stats().queue.bytes == 0
        await database.aclose()
    strings.down = False
    fresh, _ = make(tmp_path, durability="commit")
    async with fresh:
        for writer in writers:
            writer.database, writer.scope = fresh, fresh.state.scope(writer.name)
            await writer.read()
            await writer.get()
        assert sorted(await said(fresh, "shared")) == sorted(text for writer in writers for text in writer.shared)
