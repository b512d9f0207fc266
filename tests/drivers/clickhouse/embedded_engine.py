"""The current engine of ClickHouse, in this process, behind the driver's own code: every statement is valid on it too.

chdb has one session per process, so each store is a database of it.
"""

import asyncio
import atexit
import json
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

from chdb.session import Session

from agentstore.drivers.clickhouse import ClickHouseBackend
from agentstore.drivers.registry import DriverSpec

SPEC = DriverSpec(f"{__name__}:EmbeddedBackend")
"""To be put into the registry under `SCHEME`."""

SCHEME = "chdb"
_SETTINGS = "SETTINGS output_format_json_quote_64bit_integers = 0"


class _Engine:
    """chdb on a thread of its own, started with the first statement."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._session = None
        self._used = None

    def run(self, database, statement):
        """The rows of a statement, run in a database."""
        return self._thread.submit(self._run, database, statement)

    def _run(self, database, statement):
        if self._session is None:
            folder = tempfile.mkdtemp(prefix="agentstore-chdb-")
            self._session = Session(folder)
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        if database != self._used:
            self._session.query(f"CREATE DATABASE IF NOT EXISTS {database}")
            self._session.query(f"USE {database}")
            self._used = database
        is_query = statement.startswith(("SELECT", "EXISTS"))
        text = self._session.query(f"{statement} {_SETTINGS}" if is_query else statement, "JSONCompactEachRow").bytes()
        return [tuple(json.loads(line)) for line in text.splitlines()]


run = _Engine().run


class EmbeddedLink:
    def __init__(self, database):
        self._database = database

    async def select(self, statement):
        return await asyncio.wrap_future(run(self._database, statement))

    async def insert(self, table, columns, rows):
        values = "\n".join(json.dumps(row) for row in rows)
        await self.select(f"INSERT INTO {table} ({columns}) FORMAT JSONCompactEachRow {values}\n")


class EmbeddedPool:
    def __init__(self, database):
        self._link = EmbeddedLink(database)

    async def acquire(self):
        return self._link

    def release(self, connection, error):
        pass

    async def aclose(self):
        pass

    def terminate(self):
        pass

    def size(self):
        return 1


class EmbeddedBackend(ClickHouseBackend):
    def _make_pool(self):
        return EmbeddedPool(self._target.database)
