"""What the servers give, against one transaction per turn on their bare drivers: ratios within one run.

64 tasks x 30 turns (200 B of user, 800 B of assistant), each turn durable before it returns, as durable as the server's
settings make a commit. By hand and through agentstore alternate; medians. The servers are those of the environment
variables AGENTSTORE_TEST_..._URL; their database or prefix must be empty or agentstore's own.

Run: make bench-servers, which starts private servers with their default durability.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time

import by_hand

from agentstore import Message, db
from agentstore.url import StoreURL

TASKS, TURNS, REPEATS = 64, 30, 5
USER, ASSISTANT = "u" * 200, "a" * 800

SERVERS = {
    "POSTGRESQL": ("PostgreSQL, asyncpg", by_hand.postgresql),
    "MYSQL": ("MySQL/MariaDB, aiomysql", by_hand.mysql),
    "REDIS": ("Redis, redis-py", by_hand.redis),
    "CLICKHOUSE": ("ClickHouse, asynch", by_hand.clickhouse),
    "MONGODB": ("MongoDB, motor (no counterpart by hand)", None),
}


async def rate(store, run: str, turns: int) -> float:
    """Turns per second."""

    async def talk(session_id: str) -> None:
        for _ in range(turns):
            await store(session_id, [Message("user", USER), Message("assistant", ASSISTANT)])

    start = time.perf_counter()
    await asyncio.gather(*(talk(f"{run}-{task}") for task in range(TASKS)))
    return TASKS * turns / (time.perf_counter() - start)


async def ours(url: str, run: str) -> float:
    """The same through a Database, and a look whether all is there."""
    async with db(url) as database:
        found = await rate(database.append, run, TURNS)
        for task in range(TASKS):
            session = await database.session(f"{run}-{task}")
            if session is None or session.message_count != 2 * TURNS:
                sys.exit(f"{run}-{task} lost messages: {session}")
            await database.delete_session(session.id)
        return found


async def compare(title: str, hand, url: str) -> None:
    """One server's figures."""
    by, here = [], []
    for repeat in range(REPEATS):
        here.append(await ours(url, f"ours-{repeat}"))
        if hand is not None:
            async with hand(StoreURL.parse(url)) as store:
                by.append(await rate(store, f"hand-{repeat}", TURNS))
    with_us = statistics.median(here)
    print(f"{title}: {TASKS} tasks x {TURNS} turns, median of {REPEATS}")
    if by:
        print(f"  by hand, one transaction per turn  {statistics.median(by):9,.0f} turns/s")
    ratio = f"   x {with_us / statistics.median(by):.1f}" if by else ""
    print(f"  agentstore                         {with_us:9,.0f} turns/s{ratio}", flush=True)


async def main() -> None:
    """Every server that the environment names."""
    named = {name: url for name in SERVERS if (url := os.environ.get(f"AGENTSTORE_TEST_{name}_URL"))}
    if not named:
        sys.exit("Set AGENTSTORE_TEST_POSTGRESQL_URL and its like, or run: make bench-servers")
    for name, url in named.items():
        await compare(*SERVERS[name], url)


asyncio.run(main())
