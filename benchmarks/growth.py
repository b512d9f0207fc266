"""What work costs as there is more of it: ``python benchmarks/growth.py WHAT --url URL --most N``; prints JSON.

Each WHAT runs in a process of its own, so that the memory it takes is that of this work alone. The store must be empty,
and is whoever's who made it: what is stored stays there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from agentstore import Database, Message, db

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

_BATCH = 1000  # messages of an append that prepares
_AT_ONCE = 64
_READ = 50
_PARTS = 50  # looks at the memory
_CALLERS = (1, 4, 16, 64, 256, 1000)
_FIRST = {"length": 100, "sessions": 1000}

Point = dict[str, Any]


def turn() -> list[Message]:
    """200 B of the user's, 800 B of the assistant's."""
    return [Message("user", "u" * 200), Message("assistant", "a" * 800)]


def places(first: int, most: int) -> list[int]:
    """Powers of ten times the first, and the last."""
    found = [min(first, most)]
    while found[-1] < most:
        found.append(min(10 * found[-1], most))
    return found


def resident() -> int:
    """Bytes of memory that this process has.

    Raises:
        OSError: The system does not tell (it is not Linux).
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return 1024 * int(line.split()[1])
    raise OSError("no VmRSS in /proc/self/status")


async def timed(times: int, call: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """A call so many times, one after the other: half of them ended within p50 seconds, 99 of 100 within p99."""
    latencies = []
    for _ in range(times):
        start = perf_counter()
        await call()
        latencies.append(perf_counter() - start)
    latencies.sort()
    return {"p50": latencies[times // 2], "p99": latencies[round(0.99 * (times - 1))]}


async def at_once(count: int, call: Callable[[int], Awaitable[object]]) -> None:
    """A call for each number below the count, as many at once as share commits well."""
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await call(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())


async def fill(database: Database, session: str, have: int, most: int) -> None:
    """Let a session grow from so many messages to so many."""
    for done in range(have, most, _BATCH):
        size = min(_BATCH, most - done)
        await database.append(session, [message for _ in range(0, size, 2) for message in turn()][:size])


async def length(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """A turn and the newest 50 messages, of a session of ever more messages."""
    have = 0
    async with db(url) as database:
        for count in places(_FIRST["length"], most):
            await fill(database, "s", have, count)
            append = await timed(times, lambda: database.append("s", turn()))
            have = count + 2 * times
            newest = await timed(times, lambda: database.messages("s", limit=_READ))
            yield {"at": count, "append": append, "newest": newest}


async def sessions(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """A turn, the newest messages and a listing, in a store of ever more sessions of one turn."""
    have = 0
    async with db(url) as database:
        for count in places(_FIRST["sessions"], most):
            yield await _among(database, have, count, times)
            have = count


async def _among(database: Database, have: int, count: int, times: int) -> Point:
    """The same for so many sessions, of which some are there."""
    await at_once(count - have, lambda number: database.append(f"s-{have + number}", turn()))
    dice = random.Random(count)
    append = await timed(times, lambda: database.append(f"s-{dice.randrange(count)}", turn()))
    newest = await timed(times, lambda: database.messages(f"s-{dice.randrange(count)}", limit=_READ))
    listing = await timed(times, lambda: database.sessions(limit=_READ))
    return {"at": count, "append": append, "newest": newest, "listing": listing}


async def concurrency(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """Turns of ever more tasks at once, each with a session of its own; `times` for each of few, less for many."""
    async with db(url) as database:
        for callers in (count for count in _CALLERS if count <= most):
            latencies: list[float] = []
            each = max(3, 10 * times // callers)

            async def talk(session: str, turns: int, latencies: list[float] = latencies) -> None:
                for _ in range(turns):
                    start = perf_counter()
                    await database.append(session, turn())
                    latencies.append(perf_counter() - start)

            names = [f"s-{callers}-{number}" for number in range(callers)]
            await asyncio.gather(*(talk(name, 1) for name in names))
            latencies.clear()
            start = perf_counter()
            await asyncio.gather(*(talk(name, each) for name in names))
            rate = len(latencies) / (perf_counter() - start)
            latencies.sort()
            p50, p99 = (latencies[round(part * (len(latencies) - 1))] for part in (0.5, 0.99))
            yield {"at": callers, "rate": rate, "append": {"p50": p50, "p99": p99}}


async def reading(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """The memory while a session streams by; another process has filled it."""
    command = [sys.executable, __file__, "filling", "--url", url, "--most", str(most)]
    await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    async with db(url) as database:
        await database.messages("s", limit=times)  # all that is made at first use is there
        yield {"at": 0, "resident": resident()}
        seen, step = 0, max(1, most // _PARTS)
        async for _ in database.iter_messages("s"):
            seen += 1
            if seen % step == 0:
                yield {"at": seen, "resident": resident()}
    if seen != most:
        raise SystemExit(f"{seen} of {most} messages came")


async def filling(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """What `reading` reads."""
    del times
    async with db(url) as database:
        await fill(database, "s", 0, most)
        yield {"at": most}


async def queue(url: str, most: int, times: int) -> AsyncIterator[Point]:
    """The memory while turns pass through the queue, as fast as it takes them; then what was still to be stored."""
    del times
    async with db(url, durability="memory") as database:
        for number in range(_AT_ONCE):
            await database.append(f"s-{number}", turn())
        await database.flush()
        yield {"at": 0, "resident": resident()}
        points: list[Point] = []
        step = max(1, most // 2 // _PARTS)

        async def accept(number: int) -> None:
            await database.append(f"s-{number % _AT_ONCE}", turn())
            if (number + 1) % step == 0:
                points.append({"at": 2 * (number + 1), "resident": resident()})

        await at_once(most // 2, accept)
        for point in points:
            yield point
        start = perf_counter()
        await database.flush()
        yield {"at": most, "resident": resident(), "flush": perf_counter() - start}


WHAT: dict[str, Callable[[str, int, int], AsyncIterator[Point]]] = {
    "length": length,
    "sessions": sessions,
    "concurrency": concurrency,
    "reading": reading,
    "queue": queue,
    "filling": filling,
}


async def _all(points: AsyncIterator[Point], what: str) -> list[Point]:
    found = []
    async for point in points:
        if sys.stderr.isatty():
            print(f"\r{what}: {point['at']:,}", end="", file=sys.stderr, flush=True)
        found.append(point)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description="What work costs as there is more of it.")
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("--url", required=True, help="of an empty store")
    parser.add_argument("--most", type=int, required=True, help="messages, sessions or tasks at the end")
    parser.add_argument("--times", type=int, default=200, help="operations at each point")
    options = parser.parse_args(arguments)
    if options.most < 1 or options.times < 1:
        parser.error("--most and --times begin at 1")
    points = asyncio.run(_all(WHAT[options.what](options.url, options.most, options.times), options.what))
    with suppress(BrokenPipeError):
        print(json.dumps({"what": options.what, "most": options.most, "times": options.times, "points": points}))


if __name__ == "__main__":
    main()
