"""One of several processes on one store: run as a program by `ProcessContract`.

It prints ``ready``, waits for a line (so that all begin at one moment) which holds the options of its Database, pickled
and in base64, works, and prints its result as JSON.
"""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import random
import sys
from typing import TYPE_CHECKING, Any

from agentstore.database import Database, db
from agentstore.errors import ConflictError
from agentstore.records import Message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def begin(database: Database, name: str, count: int) -> Any:
    """Write to a store that perhaps nobody has opened before."""
    for number in range(count):
        await database.append(f"own {name}", Message("user", str(number)))
        await database.append("shared", Message("user", f"{name}:{number}"))
        await database.state.scope(name).set("k", number)
    return len(await database.messages(f"own {name}"))


async def append(database: Database, name: str, count: int) -> Any:
    """Append pairs to one session, four at a time."""

    async def talk(task: int) -> None:
        for number in range(count // 4):
            texts = [f"{name}.{task}:{number}:{part}" for part in range(2)]
            await database.append("s", [Message("user", text) for text in texts])

    await asyncio.gather(*(talk(task) for task in range(4)))


async def retry(database: Database, name: str, count: int) -> Any:
    """Append what the other processes append too, under the same ids."""
    answers = []
    for number in random.sample(range(count), count):
        (stored,) = await database.append("s", Message("user", f"from {name}", id=str(number)))
        answers.append([stored.id, stored.seq, stored.content])
    return answers


async def increment(database: Database, name: str, count: int) -> Any:
    """Count with `increment`."""
    del name
    return [await database.state.increment("n") for _ in range(count)]


async def compare_and_set(database: Database, name: str, count: int) -> Any:
    """Count with ``if_version``."""
    del name
    won = 0
    while won < count:
        found = await database.state.scan("n", limit=1)
        value, version = (found[0].value, found[0].version) if found else (0, 0)
        try:
            await database.state.set("n", value + 1, if_version=version)
        except ConflictError:
            await asyncio.sleep(random.random() / 100)  # noqa: S311  to draw apart
        else:
            won += 1


async def expect(database: Database, name: str, count: int) -> Any:
    """Append with ``expected_seq``: what is said is how many came before."""
    won = 0
    while won < count:
        head = await database.session("s")
        before, last_seq = (head.message_count, head.last_seq) if head else (0, 0)
        message = Message("user", str(before), name=name)
        try:
            await database.append("s", message, expected_seq=last_seq)
        except ConflictError:
            await asyncio.sleep(random.random() / 100)  # noqa: S311  to draw apart
        else:
            won += 1


async def pop(database: Database, name: str, count: int) -> Any:
    """Take messages from one session; their contents."""
    del name
    return [message.content for _ in range(count) for message in await database.pop("s")]


JOBS: dict[str, Callable[[Database, str, int], Awaitable[Any]]] = {
    job.__name__: job for job in (begin, append, retry, increment, compare_and_set, expect, pop)
}


async def work(url: str, options: dict[str, Any], job: str, name: str, count: int) -> Any:
    """Do one job with a Database of its own."""
    async with db(url, **options) as database:
        return await JOBS[job](database, name, count)


def main() -> None:
    """``worker.py URL JOB NAME COUNT``."""
    url, job, name, count = sys.argv[1:]
    say = sys.stdout.write
    say("ready\n")
    sys.stdout.flush()
    options = pickle.loads(base64.b64decode(sys.stdin.readline()))  # noqa: S301  our parent's own
    say(json.dumps(asyncio.run(work(url, options, job, name, int(count)))) + "\n")


if __name__ == "__main__":
    main()
