"""What an operator should know of a folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentstore.drivers import disk
from agentstore.findings import Finding

from .folder import FORMAT

if TYPE_CHECKING:
    import sqlite3

    from .folder import Folder

_COUNTED = ("sessions WHERE updated_at IS NOT NULL", "items", "namespaces")
_NAMED = 3


def examine(folder: Folder) -> list[Finding]:
    """Look at the folder, under its lock; the index is brought up to date."""
    start = time.perf_counter()
    with folder.writing() as connection:
        waited = time.perf_counter() - start
        unread = folder.compare(connection)
        counted = [connection.execute(f"SELECT count(*) FROM {what}").fetchone()[0] for what in _COUNTED]  # noqa: S608
        damage = _damage(connection)
    return [
        Finding("server", "JSON files, written by this process"),
        Finding("schema", f"format {FORMAT}"),
        Finding("folder", f"{folder.path}: {counted[0]} sessions, {counted[1]} keys in {counted[2]} namespaces"),
        Finding("lock", f"taken within {waited * 1000:.1f} ms"),
        damage,
        _logs(unread),
        Finding("fsync", "each group of appends, before it returns"),
        *disk.findings(folder.path),
    ]


def _damage(connection: sqlite3.Connection) -> Finding:
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer == "ok":
        return Finding("index", "agrees with the logs")
    return Finding("index", " ".join(answer.split()), "unfit", "Delete index.db: it is made anew from the logs")


def _logs(unread: list[str]) -> Finding:
    if not unread:
        return Finding("logs", "all can be read")
    return Finding(
        "logs",
        f"{len(unread)} cannot be read: {', '.join(unread[:_NAMED])}{' ...' if len(unread) > _NAMED else ''}",
        "warning",
        "Mend the line that the log of this program names, or restore the file; all other sessions work",
    )
