"""The tables: found, made or brought to this release, by one process at a time."""
# ruff: noqa: S608  statements are made of constants

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pymysql.err import ProgrammingError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from agentstore.drivers.optimistic import Attempts
from agentstore.drivers.sql import schema
from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.errors import CorruptRecordError, UnavailableError

from . import sql
from .errors import code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from .connecting import Connector
    from .transaction import Wire

_NO_TABLE = 1146
_THERE_ALREADY = {1050, 1060, 1061}  # a table, a column, an index
_LOCK = "SHA1(CONCAT('agentstore ', DATABASE()))"
"""The lock's name: such locks belong to the whole server, and their names are short."""


async def version(wire: Wire) -> str | None:
    """The schema version of the database; None if it has none."""
    try:
        (found,) = await wire.send(f"SELECT version_num FROM {VERSION_TABLE}")
    except ProgrammingError as error:
        if code(error) != _NO_TABLE:
            raise
        return None
    return found[0][0] if found else None


async def migrate(connector: Connector, seconds: float) -> None:
    """Bring the tables to this release, on a connection of its own, holding the lock.

    MySQL commits each change of a table by itself. So whoever was cut off while he made the first tables has left some
    without a version, and empty: they are made anew.

    Raises:
        SchemaError: A newer release wrote this database.
        UnavailableError: Others are at it for longer than `seconds`.
        CorruptRecordError: There are tables with data, but without a version.
        DBAPIError: Whatever else goes wrong; the driver's own is its ``orig``.
    """
    engine = create_async_engine(
        "mysql+aiomysql://", poolclass=NullPool, connect_args={"async_creator_fn": connector.connect}
    )
    attempts = Attempts("making the tables", seconds)
    try:
        while not await _migrated(engine, seconds):
            await attempts.again()
    finally:
        await engine.dispose()


async def _migrated(engine: AsyncEngine, seconds: float) -> bool:
    """Whether the tables are ready; if not, somebody else is at it, on another node of a Galera cluster."""
    async with engine.connect() as connection:
        got = await connection.scalar(text(f"SELECT GET_LOCK({_LOCK}, :seconds)"), {"seconds": math.ceil(seconds)})
        if got != 1:
            raise UnavailableError(
                f"another process has been preparing the tables for {seconds} s",
                hint="Wait for it, or end its connection: SHOW PROCESSLIST",
                passing=False,
            )
        try:
            return await connection.run_sync(_apply)
        except DBAPIError as error:
            if error.orig is not None and code(error.orig) in _THERE_ALREADY:
                return False
            raise
        finally:
            await connection.invalidate()  # gives the lock back, whatever state it is in


def _apply(connection: Connection) -> bool:
    from agentstore.drivers.sql import upgrade  # noqa: PLC0415  with Alembic: once in the life of a database

    if connection.dialect.is_mariadb:  # type: ignore[attr-defined]  # of MySQL's dialect
        connection.execute(text("SET SESSION max_statement_time = 0"))
    tables = set(connection.scalars(text(sql.TABLES)))
    known = VERSION_TABLE in tables and connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
    if known == VERSION:
        return True  # others were faster
    if not known and (remains := sorted(tables & schema.metadata.tables.keys())):
        if connection.execute(text("SHOW VARIABLES LIKE 'wsrep_on'")).all() == [("wsrep_on", "ON")]:
            return False
        _remove(connection, remains)
    upgrade.apply(connection)
    connection.commit()
    return True


def _remove(connection: Connection, tables: Sequence[str]) -> None:
    for table in tables:
        if connection.scalar(text(f"SELECT 1 FROM {table} LIMIT 1")):
            raise CorruptRecordError(
                f"the table {table} holds data, but {VERSION_TABLE} does not say which version of agentstore made it",
                hint="Restore a backup, or use another database",
            )
    for table in tables:
        connection.execute(text(f"DROP TABLE {table}"))
