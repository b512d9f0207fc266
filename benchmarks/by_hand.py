"""One turn on each server's bare driver, written by hand: a transaction of its own, the same rows and the same checks.

Each is an async context manager on a URL whose store agentstore has prepared (the SQL servers share its tables), and
gives a function that stores the two messages of a turn.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiomysql
import asyncpg
from asynch.pool import Pool
from redis.asyncio import BlockingConnectionPool, Redis

from agentstore.drivers.sql import rows

POOL = 10


def _micros():
    return time.time_ns() // 1000


@asynccontextmanager
async def postgresql(url):
    """asyncpg: a pool of ten; BEGIN, session row, look for the ids, messages, COMMIT."""
    head = (
        "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq)"
        " VALUES ($1, $2, $2, 2, 2) ON CONFLICT (session_id) DO UPDATE SET updated_at = excluded.updated_at,"
        " message_count = agentstore_sessions.message_count + 2, last_seq = agentstore_sessions.last_seq + 2"
        " RETURNING last_seq"
    )
    known = "SELECT id FROM agentstore_messages WHERE id_key = ANY($1::bigint[]) AND session_id = $2"
    put = (
        "INSERT INTO agentstore_messages (session_id, created_at, seq, id, id_key, role, content)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7), ($1, $2, $8, $9, $10, $11, $12)"
    )
    (name, port), *_ = url.hosts
    pool = asyncpg.create_pool(
        host=name,
        port=port,
        user=url.username,
        password=url.password,
        database=url.path[1:],
        min_size=POOL,
        max_size=POOL,
    )
    async with pool:

        async def store(session_id, messages):
            keys = [rows.id_key(session_id, message.id) for message in messages]
            async with pool.acquire() as connection, connection.transaction():
                now = _micros()
                last_seq = await connection.fetchval(head, session_id, now)
                if await connection.fetch(known, keys, session_id):
                    raise RuntimeError("known ids")
                values = [
                    value
                    for seq, key, message in zip((last_seq - 1, last_seq), keys, messages, strict=True)
                    for value in (seq, message.id, key, message.role, message.content)
                ]
                await connection.execute(put, session_id, now, *values)

        yield store


@asynccontextmanager
async def mysql(url):
    """aiomysql: the same."""
    head = (
        "INSERT INTO agentstore_sessions (session_id, created_at, updated_at, message_count, last_seq)"
        " VALUES (%s, %s, %s, 2, LAST_INSERT_ID(2)) ON DUPLICATE KEY UPDATE updated_at = VALUES(updated_at),"
        " message_count = message_count + 2, last_seq = LAST_INSERT_ID(last_seq + 2)"
    )
    known = "SELECT id FROM agentstore_messages WHERE id_key IN (%s, %s) AND session_id = %s"
    put = (
        "INSERT INTO agentstore_messages (session_id, created_at, seq, id, id_key, role, content)"
        " VALUES (%s, %s, %s, %s, %s, %s, %s), (%s, %s, %s, %s, %s, %s, %s)"
    )
    (name, port), *_ = url.hosts
    pool = await aiomysql.create_pool(
        host=name,
        port=port or 3306,
        user=url.username,
        password=url.password or "",
        db=url.path[1:],
        charset="utf8mb4",
        minsize=POOL,
        maxsize=POOL,
    )

    async def store(session_id, messages):
        keys = [rows.id_key(session_id, message.id) for message in messages]
        async with pool.acquire() as connection, connection.cursor() as cursor:
            now = _micros()
            await connection.begin()
            await cursor.execute(head, (session_id, now, now))
            last_seq = cursor.lastrowid
            await cursor.execute(known, (*keys, session_id))
            if await cursor.fetchall():
                raise RuntimeError("known ids")
            values = [
                value
                for seq, key, message in zip((last_seq - 1, last_seq), keys, messages, strict=True)
                for value in (session_id, now, seq, message.id, key, message.role, message.content)
            ]
            await cursor.execute(put, values)
            await connection.commit()

    try:
        yield store
    finally:
        pool.close()
        await pool.wait_closed()


@asynccontextmanager
async def redis(url):
    """redis-py: a pool of ten; a look for the ids, then MULTI with messages, ids, head and listing, EXEC."""
    (name, port), *_ = url.hosts
    pool = BlockingConnectionPool(
        host=name, port=port or 6379, username=url.username or None, password=url.password, max_connections=POOL
    )
    client = Redis.from_pool(pool)

    async def store(session_id, messages):
        key = f"hand:{{{session_id}}}"
        head, ids, log = f"{key}:head", f"{key}:ids", f"{key}:log"
        if any(await client.hmget(ids, [message.id for message in messages])):
            raise RuntimeError("known ids")
        now = _micros()
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.rpush(log, *(json.dumps([m.id, m.role, m.content, now]) for m in messages))
            pipeline.hset(ids, mapping={message.id: now for message in messages})
            pipeline.hincrby(head, "last_seq", 2)
            pipeline.hset(head, "updated_at", now)
            pipeline.zadd("hand:by-time", {session_id: now})
            await pipeline.execute()

    try:
        yield store
    finally:
        for key in [key async for key in client.scan_iter("hand:*", count=1000)]:
            await client.delete(key)
        await client.aclose()


@asynccontextmanager
async def clickhouse(url):
    """asynch: a pool of ten; a look for the ids, then an INSERT for the messages and one for the session row."""
    (name, port), *_ = url.hosts
    pool = Pool(
        minsize=1,
        maxsize=POOL,
        host=name,
        port=port or 9000,
        user=url.username or "default",
        password=url.password or "",
        database=url.path[1:] or "default",
    )
    seqs: dict[str, int] = {}
    async with pool:

        async def run(statement, values=None):
            async with pool.connection() as connection, connection.cursor() as cursor:
                await cursor.execute(statement, values)
                return await cursor.fetchall() if values is None else None

        for table, columns, order in (
            ("hand_messages", "s String, q Int64, id String, role String, content String, at Int64", "(s, q)"),
            ("hand_sessions", "s String, at Int64, last_seq Int64", "s"),
        ):
            await run(f"DROP TABLE IF EXISTS {table}")
            await run(f"CREATE TABLE {table} ({columns}) ENGINE = ReplacingMergeTree(at) ORDER BY {order}")
        slots = asyncio.Semaphore(POOL)  # its pool raises instead of waiting

        async def store(session_id, messages):
            async with slots:
                now = _micros()
                ids = ", ".join(f"'{message.id}'" for message in messages)
                if await run(f"SELECT id FROM hand_messages WHERE s = '{session_id}' AND id IN ({ids})"):
                    raise RuntimeError("known ids")
                seq = seqs[session_id] = seqs.get(session_id, 0) + len(messages)
                await run(
                    "INSERT INTO hand_messages VALUES",
                    [(session_id, seq - 1 + i, m.id, m.role, m.content, now) for i, m in enumerate(messages)],
                )
                await run("INSERT INTO hand_sessions VALUES", [(session_id, now, seq)])

        yield store
        for table in ("hand_messages", "hand_sessions"):
            await run(f"DROP TABLE {table}")
