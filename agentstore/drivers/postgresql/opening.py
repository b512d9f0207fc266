"""Makes a database ready: its tables are there, in the schema that the URL names, and of this release."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from agentstore.concurrency import DaemonExecutor
from agentstore.drivers.sql import upgrade
from agentstore.protocol import LaggingError

from .errors import RAISED, translated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from .connecting import Connector

_LOCK = 0x6167656E7473746F  # "agentsto": who migrates a database holds this lock


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


async def prepare(connection: asyncpg.Connection, connector: Connector) -> None:
    """Migrate, unless the version is this release's: then it is one statement.

    Raises:
        SchemaError: A newer release wrote this database.
    """
    if await version(connection, connector.target.schema) != upgrade.VERSION:
        # on a thread: whoever holds the lock must go on, also if its caller's loop is blocked by one who waits for it
        thread = DaemonExecutor(1, "agentstore-migration")
        try:
            await asyncio.get_running_loop().run_in_executor(thread, lambda: asyncio.run(_migrate(connector)))
        finally:
            thread.shutdown(wait=False)


async def prepared(connection: asyncpg.Connection, connector: Connector) -> None:
    """Of a standby: see that the tables have come there.

    Raises:
        LaggingError: They have not.
    """
    if await version(connection, connector.target.schema) != upgrade.VERSION:
        raise LaggingError(f"{connector.place} has not the primary's tables yet")


async def version(connection: asyncpg.Connection, schema: str) -> str | None:
    """The schema version of the tables; None where there are none."""
    try:
        found: str | None = await connection.fetchval(
            f"SELECT version_num FROM {quoted(schema)}.{upgrade.VERSION_TABLE}"  # noqa: S608  quoted
        )
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        return None
    return found


async def _migrate(connector: Connector) -> None:
    engine = create_async_engine(
        "postgresql+asyncpg://",
        poolclass=NullPool,
        isolation_level="READ COMMITTED",  # so that behind the lock we see what its last holder has done
        connect_args={
            "async_creator_fn": partial(connector.connect, limited=False),
            # through a pooler only the unnamed statement, within a transaction, stays where it was prepared
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,
        },
    )
    try:
        async with engine.begin() as connection:
            await _ready(connection, connector)
            await connection.run_sync(upgrade.apply)
    except DBAPIError as error:
        raised = error.__cause__ and error.__cause__.__cause__
        raise translated(raised or error, connector.place) from (raised or error)
    except RAISED as error:
        raise translated(error, connector.place) from error
    finally:
        await engine.dispose()


async def _ready(connection: AsyncConnection, connector: Connector) -> None:
    """The lock is ours, the schema is there, and names without one mean it: all until the transaction ends."""
    schema = connector.target.schema
    await connection.exec_driver_sql(f"SET LOCAL statement_timeout = {connector.limit}")
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a migration takes as long as it takes
    if not await connection.scalar(text("SELECT count(*) FROM pg_namespace WHERE nspname = :name"), {"name": schema}):
        await connection.exec_driver_sql(f"CREATE SCHEMA {quoted(schema)}")
    await connection.execute(text("SELECT set_config('search_path', :path, true)"), {"path": quoted(schema)})
