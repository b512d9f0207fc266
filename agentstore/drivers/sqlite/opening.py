"""Making connections: settings, the way into WAL, and the schema."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    from agentstore.options import PoolOptions

    from .place import Place

_PAUSE = 0.01  # seconds between two tries to switch to WAL
_MAX_MILLIS = 2**31 - 1


def connect_writer(place: Place, pool: PoolOptions) -> sqlite3.Connection:
    """The connection that writes, with the tables of this release behind it. Notes which file it is.

    Raises:
        UnavailableError: The folder is missing, or the file system cannot do what WAL needs, or the file is not the
            one that was noted before.
        SchemaError: A newer release wrote this database.
        sqlite3.Error: Whatever else goes wrong.
    """
    path = place.path
    if not place.in_memory and not Path(path).parent.is_dir():
        raise UnavailableError(
            f"{path}: the folder {Path(path).parent} does not exist",
            hint="Create it, or correct the database URL",
            passing=False,
        )
    place.check()
    connection = _connect(place)
    try:
        if not place.in_memory:
            _set_wal(connection, path, pool.connect_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        _set_patience(connection, pool.statement_timeout)
        if _version(connection) != VERSION:
            _migrate(connection)
        place.note()
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reader(place: Place, pool: PoolOptions) -> sqlite3.Connection:
    """A connection that only reads, to the file that `connect_writer` has prepared.

    Raises:
        UnavailableError: It is no longer there.
        sqlite3.Error: Whatever else goes wrong.
    """
    place.check()  # where there is none, connecting would make one
    connection = _connect(place)
    try:
        place.check()
        _set_patience(connection, pool.statement_timeout)
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(place: Place) -> sqlite3.Connection:
    # Before a fork another thread closes it.
    return sqlite3.connect(place.path, isolation_level=None, check_same_thread=False)


def _set_patience(connection: sqlite3.Connection, seconds: float) -> None:
    connection.execute(f"PRAGMA busy_timeout = {int(min(seconds * 1000, _MAX_MILLIS))}")


def _set_wal(connection: sqlite3.Connection, path: str, seconds: float) -> None:
    """Switch the file to WAL, where it stays.

    While others open it too, SQLite may say BUSY at once, whatever its patience: so the patience is ours.
    """
    _set_patience(connection, 0)
    deadline = time.monotonic() + seconds
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE)
        else:
            break
    if mode != "wal":
        raise UnavailableError(
            f"{path}: this file system cannot do write-ahead logging (SQLite stays in mode {mode!r})",
            hint="Keep the database on a local disk",
            passing=False,
        )


def _version(connection: sqlite3.Connection) -> str | None:
    """The schema version of the database; None if it has no tables of ours."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchone():
        return None
    row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()  # noqa: S608  a constant
    return row[0] if row else None


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to this release, in one transaction that begins with the write lock."""
    import sqlalchemy  # noqa: PLC0415  as Alembic: needed once in the life of a database

    from agentstore.drivers.sql import upgrade  # noqa: PLC0415

    engine = sqlalchemy.create_engine("sqlite://", creator=lambda: connection, poolclass=sqlalchemy.StaticPool)

    @sqlalchemy.event.listens_for(engine, "begin")
    def lock(begun: sqlalchemy.Connection) -> None:
        begun.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        with engine.begin() as begun:
            upgrade.apply(begun)
    except sqlalchemy.exc.DBAPIError as error:
        if error.orig is None:
            raise
        raise error.orig from error
