"""What an operator should know of the server: for ``agentstore doctor``."""
# ruff: noqa: S608  statements are made of constants

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentstore.drivers.sql.upgrade import VERSION_TABLE
from agentstore.findings import Finding

from . import sql
from .literals import values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentstore.options import PoolOptions

    from .settings import Settings
    from .transaction import Wire
    from .wire import Row

_SKEW = 1.0  # seconds that two clocks may differ
_PACKET = 16 * 2**20  # bytes: what the longest message may become as a statement
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_VARIABLES = (
    *("version", "version_comment", "read_only", "max_allowed_packet", "max_connections", "wait_timeout", "wsrep_on"),
    *("innodb_flush_log_at_trx_commit", "innodb_doublewrite", "innodb_flush_method"),
    *("log_bin", "sync_binlog", "binlog_format"),
)
_STATUS = ("Ssl_version", "wsrep_cluster_size", "wsrep_cluster_status", "wsrep_ready")
_LOOK = (
    f"SHOW GLOBAL VARIABLES WHERE Variable_name IN {values(_VARIABLES)}",
    f"SHOW SESSION STATUS WHERE Variable_name IN {values(_STATUS)}",
    sql.TABLES + " ORDER BY table_name",
    f"SELECT version_num FROM {VERSION_TABLE}",
)


async def examine(wire: Wire, settings: Settings, options: PoolOptions) -> list[Finding]:
    """All that can be seen in two round trips."""
    variables, status, tables, version = await wire.send(*_LOOK)
    before = time.time()
    ((micros,),) = (await wire.send(sql.NOW))[0]
    after = time.time()
    known = {name.lower(): value for name, value in (*variables, *status)}
    return [
        Finding("server", _product(known)),
        Finding("schema", f"version {version[0][0]} in {settings.database}"),
        *_tables(tables),
        _role(known),
        *_durability(known),
        *_binary_log(known),
        _packet(wire.limit, known),
        _clock(micros / 1e6, before, after),
        _connections(int(known["max_connections"]), options),
        Finding("wait_timeout", f"{known['wait_timeout']} s; a connection closed for resting too long is replaced"),
        _tls(known, settings),
        *_galera(known),
    ]


def _product(known: Mapping[str, str]) -> str:
    name = "MariaDB" if "mariadb" in known["version"].lower() else "MySQL"
    return f"{name} {known['version']} ({known['version_comment']})"


def _tables(tables: Sequence[Row]) -> Iterator[Finding]:
    ours = [row for row in tables if row[0] != VERSION_TABLE]
    others = sorted({str(row[1]) for row in ours if row[1] != "InnoDB"})
    yield (
        Finding("engine", ", ".join(others), "unfit", "It has no transactions: ALTER TABLE ... ENGINE = InnoDB")
        if others
        else Finding("engine", "InnoDB")
    )
    others = sorted({str(row[2]) for row in ours if not str(row[2]).startswith("utf8mb4_")})
    yield (
        Finding("charset", ", ".join(others), "unfit", "It has not all characters: restore the tables in utf8mb4")
        if others
        else Finding("charset", "utf8mb4")
    )


def _role(known: Mapping[str, str]) -> Finding:
    if known["read_only"] in {"OFF", "0"}:
        return Finding("role", "takes writes")
    return Finding("role", "read-only", "unfit", "Name the primary in the URL, or all members: host1,host2")


def _durability(known: Mapping[str, str]) -> Iterator[Finding]:
    for name, fine, advice in (
        (
            "innodb_flush_log_at_trx_commit",
            known["innodb_flush_log_at_trx_commit"] == "1",
            "A crash of the machine (with 0 of the server) loses what was acknowledged in the last second: set it to 1",
        ),
        (
            "innodb_doublewrite",
            known["innodb_doublewrite"] in {"ON", "1", "DETECT_AND_RECOVER"},
            "A crash may ruin pages, unless the file system writes them whole: set it to ON",
        ),
        (
            "innodb_flush_method",
            known["innodb_flush_method"].lower() not in {"nosync", "littlesync"},
            "Nothing is flushed to the disk, and a crash of the machine may ruin all: leave this setting out",
        ),
    ):
        yield Finding(name, known[name], "ok" if fine else "warning", None if fine else advice)


def _binary_log(known: Mapping[str, str]) -> Iterator[Finding]:
    if known.get("log_bin", "OFF") in {"OFF", "0"}:
        return
    if known["sync_binlog"] == "1":
        yield Finding("sync_binlog", "1")
    else:
        advice = "After a crash of the machine replicas, and recovery, may lack what was acknowledged last: set it to 1"
        yield Finding("sync_binlog", known["sync_binlog"], "warning", advice)
    if known.get("binlog_format") == "STATEMENT":
        yield Finding("binlog_format", "STATEMENT", "unfit", "READ COMMITTED cannot be logged so: set it to ROW")


def _packet(limit: int, known: Mapping[str, str]) -> Finding:
    size = int(known["max_allowed_packet"])
    if limit >= _PACKET - sql.SLACK:
        return Finding("max_allowed_packet", f"{size:,} bytes")
    return Finding(
        "max_allowed_packet",
        f"{size:,} bytes, of which a statement of this connection may have {limit:,}",
        "unfit",
        "Messages of up to 8 MiB need 16 MiB at least, as a statement: SET GLOBAL max_allowed_packet = 67108864, and "
        "the same in the server's configuration file",
    )


def _clock(there: float, before: float, after: float) -> Finding:
    skew, doubt = there - (before + after) / 2, (after - before) / 2
    value = f"{skew:+.3f} s against this machine, to {doubt:.3f} s"
    if abs(skew) - doubt <= _SKEW:
        return Finding("clock", value)
    return Finding("clock", value, "warning", "Let NTP set both: sessions expire by the server's clock")


def _connections(allowed: int, options: PoolOptions) -> Finding:
    value = f"{allowed} allowed; up to {options.size} for each event loop of a process, and as many for its locks"
    if 2 * options.size <= allowed:
        return Finding("connections", value)
    return Finding("connections", value, "warning", "Lower PoolOptions.size, or raise max_connections")


def _tls(known: Mapping[str, str], settings: Settings) -> Finding:
    if known.get("ssl_version"):
        return Finding("TLS", f"{known['ssl_version']}, ssl-mode={settings.tls.value}")
    if settings.unix_socket or all(host in _LOCAL for host, _ in settings.hosts):
        return Finding("TLS", "none, on this machine")
    return Finding("TLS", "none", "warning", "Anybody between can read along: write ?ssl-mode=VERIFY_IDENTITY")


def _galera(known: Mapping[str, str]) -> Iterator[Finding]:
    if known.get("wsrep_on") != "ON":
        return
    value = f"{known.get('wsrep_cluster_size')} nodes, {known.get('wsrep_cluster_status')}"
    if known.get("wsrep_ready") != "ON" or known.get("wsrep_cluster_status") != "Primary":
        yield Finding("Galera", value, "unfit", "This node is not part of the cluster's majority: look at its log")
    else:
        yield Finding(
            "Galera",
            value,
            "warning",
            "Writers on two nodes undo each other's transactions: name the same node first in every URL. To read at "
            "once on one node what was written on another, set wsrep_sync_wait = 1",
        )
