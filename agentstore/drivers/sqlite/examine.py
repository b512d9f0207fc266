"""What an operator should know of a database."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.drivers import disk
from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.findings import Finding

if TYPE_CHECKING:
    from .place import Place

_CHECKED = 64 * 2**20  # bytes of a database that are checked in passing: a tenth of a second or so
_SYNCHRONOUS = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
_FULL = 2


def examine(connection: sqlite3.Connection, place: Place) -> list[Finding]:
    """Look at the database through the connection that writes to it.

    Raises:
        UnavailableError: It is no longer there.
        sqlite3.Error: Whatever else goes wrong.
    """
    place.check()
    found = [Finding("server", f"SQLite {sqlite3.sqlite_version}, in this process"), _schema(connection)]
    if place.in_memory:
        return [
            *found,
            Finding("durability", "in memory", "warning", "All of it ends with this process: name a file to keep it"),
        ]
    path = Path(place.path)
    return [*found, _file(path), *_durability(connection), _integrity(connection, path), *disk.findings(path.parent)]


def _schema(connection: sqlite3.Connection) -> Finding:
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608  a constant
    version = row[0] if row else "unknown"
    if version == VERSION:
        return Finding("schema", f"version {version}")
    return Finding(
        "schema", f"version {version}; this release knows {VERSION}", "unfit", "Close it, and open it again to migrate"
    )


def _file(path: Path) -> Finding:
    log = path.with_name(path.name + "-wal")
    logged = log.stat().st_size if log.exists() else 0
    return Finding("file", f"{path}, {disk.amount(path.stat().st_size)}, and {disk.amount(logged)} in its log")


def _durability(connection: sqlite3.Connection) -> list[Finding]:
    (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
    (level,) = connection.execute("PRAGMA synchronous").fetchone()
    journal = (
        Finding("journal mode", mode)
        if mode == "wal"
        else Finding("journal mode", mode, "warning", "Another program has changed it: readers wait for writers now")
    )
    name = _SYNCHRONOUS.get(level, str(level))
    synced = (
        Finding("synchronous", f"{name}: a commit is on the disk when it returns")
        if level >= _FULL
        else Finding("synchronous", name, "warning", "A power cut may take commits back: close and open it again")
    )
    return [journal, synced]


def _integrity(connection: sqlite3.Connection, path: Path) -> Finding:
    size = path.stat().st_size
    if size > _CHECKED:
        command = "PRAGMA quick_check"
        return Finding("integrity", f"not checked, as it takes long over {disk.amount(_CHECKED)}; {command} does it")
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer == "ok":
        return Finding("integrity", "checked")
    advice = "Restore a backup, or try the .recover command of the sqlite3 shell"
    return Finding("integrity", " ".join(answer.split()), "unfit", advice)
