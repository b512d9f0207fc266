"""What an operator should know of the server: for ``agentstore doctor``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentstore.errors import AgentstoreError
from agentstore.findings import Finding

from . import opening
from .errors import code
from .schema import VERSION

if TYPE_CHECKING:
    from agentstore.options import PoolOptions

    from .link import Link

_NO_TABLE = 60  # the server's code
_SKEW = 1.5  # seconds: old servers tell whole ones, which are half a second too early on average
_CROWDED = 100  # parts of a table at which merging seems to be behind; at 300 a server refuses to insert


async def examine(link: Link, pool: PoolOptions) -> list[Finding]:
    """Server, schema, durability, clock, merges, connections."""
    engines: dict[str, str] = dict(
        await link.select(
            "SELECT name, engine FROM system.tables WHERE database = currentDatabase() AND name LIKE 'agentstore_%'"
        )
    )
    return [
        Finding("server", f"ClickHouse {(await link.select('SELECT version()'))[0][0]}"),
        await _schema(link, engines),
        await _durability(link, engines),
        _processes(),
        await _clock(link),
        await _parts(link),
        *await _connections(link, pool),
    ]


async def _schema(link: Link, engines: dict[str, str]) -> Finding:
    found = await opening.version(link)
    value = f"version {found}, agentstore_log is {engines.get('agentstore_log', 'missing')}"
    if found != VERSION:
        return Finding("schema", value, "unfit", "Let agentstore open the store once, by an account that may CREATE")
    replacing = [engine for name, engine in engines.items() if name in {"agentstore_log", "agentstore_state"}]
    if not all("ReplacingMergeTree" in engine or engine == "Distributed" for engine in replacing):
        return Finding("schema", value, "unfit", "Its tables must be of the ReplacingMergeTree family")
    return Finding("schema", value)


async def _durability(link: Link, engines: dict[str, str]) -> Finding:
    settings: dict[str, str] = dict(
        await link.select("SELECT name, value FROM system.merge_tree_settings WHERE name LIKE 'fsync%'")
    )
    if engines.get("agentstore_log", "").startswith("Replicated"):
        quorum = await link.select("SELECT value FROM system.settings WHERE name = 'insert_quorum'")
        if quorum and quorum[0][0] not in {"0", "1"}:
            return Finding("durability", f"insert_quorum={quorum[0][0]}")
        return Finding(
            "durability",
            "one replica has an insert before it returns",
            "warning",
            "Set insert_quorum=2 in the user's profile: a commit survives the loss of a replica",
        )
    if "fsync_after_insert" not in settings:
        return Finding(
            "durability",
            "this release never waits for the disk: a commit survives the end of the server, not of the machine",
            "warning",
            "Upgrade and set fsync_after_insert=1, or replicate the tables",
        )
    if await _syncs(link, settings):
        return Finding("durability", "fsync_after_insert=1")
    return Finding(
        "durability",
        "fsync_after_insert=0: a commit survives the end of the server, not of the machine",
        "warning",
        "ALTER TABLE agentstore_log MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1;"
        " the same for agentstore_state",
    )


async def _syncs(link: Link, settings: dict[str, str]) -> bool:
    """Whether both tables wait for the disk, by settings of their own or by the server's."""
    tables = await link.select(
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase()"
        " AND name IN ('agentstore_log', 'agentstore_state')"
    )
    on = settings["fsync_after_insert"] not in {"0", "false"}
    return all("fsync_after_insert = 1" in text or (on and "fsync_after_insert" not in text) for (text,) in tables)


def _processes() -> Finding:
    return Finding(
        "several processes",
        "expected_seq, if_version, increment and pop are exact within one process",
        "ok",
        "Let one process write a session, or keep state that several change on another backend",
    )


async def _clock(link: Link) -> Finding:
    before = time.time()
    server: int = (await link.select("SELECT toUInt32(now())"))[0][0]
    skew = server + 0.5 - (before + time.time()) / 2
    if abs(skew) > _SKEW:
        advice = "Let both use NTP: expiries follow the clocks of the processes that write and read"
        return Finding("clock", f"the server is {skew:+.1f} s off this machine", "warning", advice)
    return Finding("clock", "the server and this machine agree within a second or so")


async def _parts(link: Link) -> Finding:
    parts: int = (
        await link.select(
            "SELECT count() FROM system.parts WHERE active"
            " AND database = currentDatabase() AND table = 'agentstore_log'"
        )
    )[0][0]
    if parts > _CROWDED:
        advice = "Let fewer processes write, whose callers share an INSERT; or give the server faster disks"
        return Finding("parts", f"{parts} of agentstore_log: merging is behind", "warning", advice)
    return Finding("parts", f"{parts} of agentstore_log")


async def _connections(link: Link, pool: PoolOptions) -> list[Finding]:
    try:
        found: dict[str, int] = dict(
            await link.select("SELECT metric, value FROM system.metrics WHERE metric = 'TCPConnection'")
        )
        limits: dict[str, str] = dict(
            await link.select("SELECT name, value FROM system.server_settings WHERE name = 'max_connections'")
        )
    except AgentstoreError as error:
        if code(error.__cause__) != _NO_TABLE:
            raise
        return []  # old servers do not tell their limit
    limit, used = int(limits.get("max_connections", 0)), found.get("TCPConnection", 0)
    value = f"{used} in use, {limit} allowed; {pool.size} for each process here"
    if limit and limit - used < pool.size:
        return [Finding("connections", value, "warning", "Lower PoolOptions.size, or raise max_connections")]
    return [Finding("connections", value)]
