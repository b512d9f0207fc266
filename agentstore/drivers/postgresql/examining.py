"""What an operator should know of a server."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from agentstore.drivers.sql import upgrade
from agentstore.findings import Finding

from . import opening
from .connecting import ISOLATION, transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from agentstore.options import PoolOptions

    from .connecting import Connector

_SKEW = 1.0  # seconds that two clocks may differ

_LOOK = """\
SELECT clock_timestamp() AS now, version() AS version, pg_is_in_recovery() AS standby,
    current_setting('transaction_read_only') AS read_only, current_setting('server_encoding') AS encoding,
    current_setting('synchronous_commit') AS synchronous_commit, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('default_transaction_isolation') AS isolation,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS connections,
    ARRAY(SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p')
        AND relname LIKE 'agentstore\\_%' AND relpersistence = 'u' ORDER BY 1) AS unlogged,
    ARRAY(SELECT nspname::text FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace
        WHERE relname = $2 AND n.oid IS DISTINCT FROM to_regnamespace($1) ORDER BY 1) AS elsewhere"""


async def findings(connection: asyncpg.Connection, connector: Connector, options: PoolOptions) -> list[Finding]:
    """All that can be seen in a few statements."""
    schema = connector.target.schema
    before = time.time()
    seen = await connection.fetchrow(_LOOK, opening.quoted(schema), upgrade.VERSION_TABLE)
    after = time.time()
    version = await opening.version(connection, schema)
    return [
        Finding("server", seen["version"].partition(" on ")[0]),
        *_schema(seen, schema, version),
        *_role(seen),
        *_durability(seen),
        _isolation(seen["isolation"]),
        _encoding(seen["encoding"]),
        _clock(seen["now"], before, after),
        _connections(seen["connections"], connector, options),
        _pooler(connector),
        _tls(connection),
    ]


def _schema(seen: asyncpg.Record, schema: str, version: str | None) -> Iterator[Finding]:
    yield Finding("schema", f"version {version} in {schema}")
    if seen["elsewhere"]:
        yield Finding(
            "other schemas",
            f"agentstore has tables in {', '.join(seen['elsewhere'])} too",
            "warning",
            "If sessions are missed, they may be there: name the schema in the URL, ?schema=NAME",
        )


def _role(seen: asyncpg.Record) -> Iterator[Finding]:
    if seen["standby"]:
        yield Finding("role", "standby", "unfit", "It takes no writes: name the primary in the URL, or all hosts")
    elif seen["read_only"] == "on":
        yield Finding("role", "primary, read only", "unfit", "Set default_transaction_read_only = off")
    else:
        yield Finding("role", "primary")


def _durability(seen: asyncpg.Record) -> Iterator[Finding]:
    advice = {
        "synchronous_commit": "A crash of the server loses what was acknowledged last: set synchronous_commit = on",
        "fsync": "A crash of its machine loses or ruins everything: set fsync = on",
        "full_page_writes": "A crash of its machine may ruin pages, unless the file system writes them whole: set "
        "full_page_writes = on",
    }
    for name, what in advice.items():
        off = seen[name] == "off"
        yield Finding(name, seen[name], "warning" if off else "ok", what if off else None)
    if seen["unlogged"]:
        yield Finding(
            "unlogged tables",
            ", ".join(seen["unlogged"]),
            "warning",
            "A crash of the server empties them: ALTER TABLE ... SET LOGGED",
        )


def _isolation(level: str) -> Finding:
    if level == ISOLATION:
        return Finding("isolation", level)
    return Finding(  # only behind a pooler: else it was set when the connection was made
        "isolation",
        level,
        "warning",
        "Writers at the same time fail and are repeated: ALTER ROLE name SET default_transaction_isolation = "
        f"'{ISOLATION}'",
    )


def _encoding(encoding: str) -> Finding:
    return Finding("encoding", encoding)  # any other than UTF8 was refused when the connection was made


def _clock(now: datetime, before: float, after: float) -> Finding:
    here = datetime.fromtimestamp((before + after) / 2, UTC)
    skew = (now - here).total_seconds()
    known = f"{skew:+.3f} s against this machine, to {(after - before) / 2:.3f} s"
    if abs(skew) - (after - before) / 2 <= _SKEW:
        return Finding("clock", known)
    return Finding("clock", known, "warning", "Let NTP set both: sessions expire by the server's clock")


def _connections(allowed: int, connector: Connector, options: PoolOptions) -> Finding:
    known = f"{allowed} allowed, {options.size} for each event loop of each process here"
    if connector.pooled or options.size <= allowed:
        return Finding("connections", known)
    return Finding("connections", known, "warning", "Lower PoolOptions.size, or raise max_connections")


def _pooler(connector: Connector) -> Finding:
    if not connector.pooled:
        return Finding("pooler", "none")
    if connector.target.prepared == "yes":
        return Finding("pooler", "there is one, and statements are prepared, as the URL says")
    return Finding("pooler", "there is one: statements are not prepared, and timed out on this side only")


def _tls(connection: asyncpg.Connection) -> Finding:
    wire = transport(connection)
    tls = wire.get_extra_info("ssl_object")
    if tls is not None:
        return Finding("TLS", f"{tls.version()}, certificate {'checked' if tls.context.verify_mode else 'not checked'}")
    peer = wire.get_extra_info("peername")
    if not isinstance(peer, tuple) or peer[0] in ("127.0.0.1", "::1"):
        return Finding("TLS", "none, on this machine")
    return Finding("TLS", "none", "warning", "Anybody between can read along: write ?sslmode=verify-full")
