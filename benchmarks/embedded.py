"""What the embedded stores cost, as ratios within one run: machines are noisy, ratios travel.

1. 64 tasks x 30 turns on one SQLite file, each turn durable before it returns (synchronous=FULL), against the same
   work on aiosqlite by hand with one commit per turn: same rows, same unique message ids, same session row and index.
2. The last 50 of 20,000 messages against the last 50 of 200, on SQLite and on JSON files.

Run: make bench. Medians of alternating repeats.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiosqlite

from agentstore import Message, db

TASKS, TURNS, REPEATS = 64, 30, 5
USER, ASSISTANT = "u" * 200, "a" * 800

SCHEMA = """
CREATE TABLE sessions (id TEXT PRIMARY KEY, updated_at INTEGER, message_count INTEGER, last_seq INTEGER);
CREATE INDEX listing ON sessions (updated_at, id);
CREATE TABLE messages (session_id TEXT, seq INTEGER, id TEXT, role TEXT, content TEXT, created_at INTEGER,
    PRIMARY KEY (session_id, seq), UNIQUE (session_id, id));
"""


async def by_hand(path: Path) -> float:
    """Turns per second with one aiosqlite commit per turn, through one connection as aiosqlite has it."""
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        await connection.execute("PRAGMA journal_mode=WAL")
        await connection.execute("PRAGMA synchronous=FULL")
        await connection.executescript(SCHEMA)
        lock = asyncio.Lock()

        async def talk(session_id: str) -> None:
            for _ in range(TURNS):
                user, assistant = Message("user", USER), Message("assistant", ASSISTANT)
                async with lock:
                    now = time.time_ns() // 1000
                    await connection.execute("BEGIN IMMEDIATE")
                    cursor = await connection.execute(
                        "INSERT INTO sessions VALUES (?, ?, 2, 2) ON CONFLICT (id) DO UPDATE SET"
                        " updated_at = excluded.updated_at, message_count = message_count + 2, last_seq = last_seq + 2"
                        " RETURNING last_seq",
                        (session_id, now),
                    )
                    (last_seq,) = await cursor.fetchone() or (0,)
                    await cursor.close()
                    await connection.executemany(
                        "INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)",
                        [
                            (session_id, last_seq - 1, user.id, user.role, user.content, now),
                            (session_id, last_seq, assistant.id, assistant.role, assistant.content, now),
                        ],
                    )
                    await connection.execute("COMMIT")

        start = time.perf_counter()
        await asyncio.gather(*(talk(f"session-{n}") for n in range(TASKS)))
        return TASKS * TURNS / (time.perf_counter() - start)


async def with_agentstore(path: Path) -> float:
    """Turns per second through a Database."""
    async with db(f"sqlite:///{path}") as database:

        async def talk(session_id: str) -> None:
            for _ in range(TURNS):
                await database.append(session_id, [Message("user", USER), Message("assistant", ASSISTANT)])

        start = time.perf_counter()
        await asyncio.gather(*(talk(f"session-{n}") for n in range(TASKS)))
        rate = TASKS * TURNS / (time.perf_counter() - start)
        for n in range(TASKS):
            session = await database.session(f"session-{n}")
            if session is None or session.message_count != 2 * TURNS:
                sys.exit(f"session-{n} lost messages: {session}")
        return rate


async def tail_times(url: str) -> dict[int, float]:
    """Median seconds to read the last 50 messages of sessions of 200 and of 20,000, alternating."""
    async with db(url) as database:
        for length in (200, 20_000):
            for start in range(0, length, 1000):
                batch = [Message("user", USER) for _ in range(min(1000, length - start))]
                await database.append(f"of-{length}", batch)
        times: dict[int, list[float]] = {200: [], 20_000: []}
        for _ in range(200):
            for length, taken in times.items():
                start_time = time.perf_counter()
                await database.messages(f"of-{length}", limit=50)
                taken.append(time.perf_counter() - start_time)
        return {length: statistics.median(taken) for length, taken in times.items()}


async def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        raw, ours = [], []
        for repeat in range(REPEATS):
            raw.append(await by_hand(Path(folder) / f"raw-{repeat}.db"))
            ours.append(await with_agentstore(Path(folder) / f"ours-{repeat}.db"))
        hand, here = statistics.median(raw), statistics.median(ours)
        print(f"SQLite, {TASKS} tasks x {TURNS} turns, synchronous=FULL, median of {REPEATS} alternating runs")
        print(f"  aiosqlite, one commit per turn  {hand:9,.0f} turns/s")
        print(f"  agentstore                      {here:9,.0f} turns/s   x {here / hand:.1f}")
        for scheme in ("sqlite", "json"):
            times = await tail_times(f"{scheme}:///{folder}/tail-{scheme}")
            print(
                f"last 50 messages, {scheme}: of 200 {times[200] * 1e6:,.0f} us, of 20,000 "
                f"{times[20_000] * 1e6:,.0f} us   x {times[20_000] / times[200]:.2f}"
            )


asyncio.run(main())
