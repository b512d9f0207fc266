"""Where the tables are, who makes them, and that indexes serve them at any size."""

import asyncio
import re
import subprocess
import sys

import pytest
from postgresql_kit import execute, make, turn, within, words

from agentstore import Message, db
from agentstore.drivers.sql.schema import metadata
from agentstore.drivers.sql.upgrade import VERSION, VERSION_TABLE
from agentstore.errors import SchemaError
from agentstore.protocol import GetItems, Read, Scan, SetItems

pytestmark = pytest.mark.anyio

PLACES = "SELECT string_agg(DISTINCT schemaname, ',') FROM pg_tables WHERE tablename LIKE 'agentstore%'"
TABLES = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'agentstore%'"


async def use(url, text):
    async with db(url) as database:
        await database.append("s", Message("user", text))
        await database.state.set("k", text)
        return [message.content for message in await database.messages("s")]


async def test_the_search_path_means_nothing(url):
    name = url.rpartition("/")[2]
    assert await use(url, "one") == ["one"]
    execute(url, "CREATE SCHEMA elsewhere")
    execute(url, f"ALTER DATABASE {name} SET search_path = elsewhere")
    assert await use(url, "two") == ["one", "two"]
    execute(url, f"ALTER DATABASE {name} SET search_path = ''")
    assert await use(url, "three") == ["one", "two", "three"]
    assert execute(url, PLACES) == "public"


async def test_an_empty_database_with_another_search_path(url):
    execute(url, "CREATE SCHEMA elsewhere")
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET search_path = elsewhere, public")
    assert await use(url, "one") == ["one"]
    assert execute(url, PLACES) == "public"


@pytest.mark.parametrize("name", ["agents", 'A "b" ?$1 {}', "é" * 31])
async def test_a_schema_of_its_own(url, name):
    own = within(url, options={"schema": name})
    assert await use(own, "one") == ["one"]
    assert await use(own, "two") == ["one", "two"]
    assert execute(url, PLACES) == name
    assert execute(url, TABLES) == len(metadata.tables) + 1
    assert await use(url, "other") == ["other"], "another schema is another store"
    backend = make(url)
    await backend.aopen()
    (finding,) = [finding for finding in await backend.examine() if finding.subject == "other schemas"]
    assert (finding.level, name in finding.value) == ("warning", True)
    await backend.aclose()


async def test_a_schema_made_by_somebody_else(url):
    execute(url, "CREATE SCHEMA agents")
    assert await use(within(url, options={"schema": "agents"}), "one") == ["one"]


async def test_a_database_of_a_newer_version(url, backend):
    execute(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    newer = make(url)
    with pytest.raises(SchemaError, match="9999"):
        await newer.aopen()
    await newer.aclose()


async def test_many_open_an_empty_database_at_once(url):
    stores = [make(url) for _ in range(8)]
    await asyncio.gather(*(store.aopen() for store in stores))
    await asyncio.gather(*(store.append([turn("s")]) for store in stores))
    assert len((await stores[0].read([Read("s")]))[0]) == 8
    for store in stores:
        await store.aclose()


async def test_opening_again_after_a_failure(url):
    execute(url, "CREATE TABLE agentstore_state (x int)")
    backend = make(url)
    with pytest.raises(Exception, match="already exists"):
        await backend.aopen()
    assert execute(url, TABLES) == 1, "all or nothing"
    execute(url, "DROP TABLE agentstore_state")
    await backend.aopen()
    assert isinstance((await backend.append([turn("s")]))[0], list)
    await backend.aclose()


def test_alembic_is_imported_only_to_migrate(url):
    source = (
        "import asyncio, sys; from agentstore import db\n"
        f"async def main():\n    async with db({url!r}) as database: await database.ping()\n"
        "asyncio.run(main()); print('alembic' in sys.modules)"
    )
    seen = [
        subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert seen == ["True\n", "False\n"]
    assert execute(url, f"SELECT version_num FROM {VERSION_TABLE}") == VERSION


async def test_the_longest_ids(backend):
    long = [chr(0x1F600 + n) * 255 for n in range(3)]
    for outcome in await backend.append([turn(long[0], id=long[1]), turn(long[1], id=long[2])]):
        assert isinstance(outcome, list)
    (known,) = await backend.append([turn(long[0], "again", id=long[1])])
    assert words(known) == ["hello"]
    assert isinstance((await backend.write_items([SetItems(long[0], {long[1]: 1, long[2]: 2})]))[0], int)
    (found,) = await backend.get_items([GetItems(long[0], (long[2], long[1]))])
    assert list(found) == [long[2], long[1]]
    assert [item.key for item in await backend.scan(Scan(long[0], prefix=long[1][:3]))] == [long[1]]


async def test_every_statement_probes_by_index(backend, url):
    """Planned while the tables are empty, without any statistics, once and for all."""
    async with backend._pools.connection() as proxy:
        connection = proxy.driver_connection
        log, state = backend._log._sql, backend._state._sql
        statements = [*vars(log).values(), *vars(state).values(), *log._writes.values()]
        statements += [log.listing("", 1), state.scan("", "ASC", 2)]
        probing = [
            text for text in statements if isinstance(text, str) and text.startswith(("SELECT", "WITH", "UPDATE"))
        ]
        assert len(probing) == 25
        for text in probing:
            count = max(map(int, re.findall(r"\$(\d+)", text)))
            await connection.execute(f"PREPARE probe AS {text}")
            nulls = ", ".join(["NULL"] * count)
            plan = "\n".join(row[0] for row in await connection.fetch(f"EXPLAIN EXECUTE probe({nulls})"))
            await connection.execute("DEALLOCATE probe")
            assert "Seq Scan" not in plan, plan
            assert "Merge" not in plan, plan
