"""The tables: made once, whoever comes; and what operators are told."""

import asyncio

import pytest
from mysql_kit import connect, execute, make, turn, within, words

import servers
from agentstore import errors
from agentstore.drivers.mysql import opening
from agentstore.drivers.sql.upgrade import VERSION
from agentstore.protocol import Read

pytestmark = pytest.mark.anyio

TABLES = ["agentstore_messages", "agentstore_sessions", "agentstore_state", "agentstore_state_floors"]


async def test_ten_at_once_open_an_empty_database(url):
    backends = [make(url) for _ in range(10)]
    await asyncio.gather(*(backend.aopen() for backend in backends))
    await backends[0].append([turn("s")])
    assert words((await backends[9].read([Read("s")]))[0]) == ["hello"]
    for backend in backends:
        await backend.aclose()
    assert execute(url, "SELECT version_num FROM agentstore_version") == ((VERSION,),)
    assert [row[0] for row in execute(url, "SHOW TABLES")] == [*TABLES, "agentstore_version"]


@pytest.mark.parametrize("left", range(5))
async def test_a_first_migration_that_was_cut_off(url, backend, left):
    await backend.aclose()
    for table in TABLES[left:]:
        execute(url, f"DROP TABLE {table}")
    execute(url, "DELETE FROM agentstore_version" if left % 2 else "DROP TABLE agentstore_version")
    if left > 1:
        execute(url, "ALTER TABLE agentstore_sessions DROP INDEX agentstore_sessions_by_user")
    again = make(url)
    await again.aopen()
    await again.append([turn("s")])
    assert words((await again.read([Read("s")]))[0]) == ["hello"]
    assert len(execute(url, "SHOW INDEX FROM agentstore_sessions WHERE Key_name LIKE '%by_user'")) == 2
    await again.aclose()


async def test_tables_with_data_but_no_version_are_left_alone(url, backend):
    await backend.append([turn("s")])
    execute(url, "DROP TABLE agentstore_version")
    with pytest.raises(errors.CorruptRecordError, match="agentstore_messages"):
        await make(url).aopen()
    assert words((await backend.read([Read("s")]))[0]) == ["hello"]


async def test_a_newer_schema_is_refused(url, backend):
    execute(url, "UPDATE agentstore_version SET version_num = '9999'")
    with pytest.raises(errors.SchemaError, match="9999"):
        await make(url).aopen()


async def test_who_holds_the_lock_is_waited_for(url):
    backend = make(url, statement_timeout=1)
    connection = connect(url)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT GET_LOCK({opening._LOCK}, 0)")
        with pytest.raises(errors.UnavailableError, match="another process"):
            await backend.aopen()
        waiting = asyncio.create_task(backend.aopen())
        await asyncio.sleep(0)
    connection.close()
    await waiting
    await backend.append([turn("s")])
    await backend.aclose()


async def test_a_failed_opening_can_be_repeated(url):
    name = url.rpartition("/")[2]
    execute(within(url, path="/mysql"), f"DROP DATABASE {name}")
    backend = make(url)
    with pytest.raises(errors.ConfigurationError, match="CREATE DATABASE"):
        await backend.aopen()
    execute(within(url, path="/mysql"), f"CREATE DATABASE {name}")
    await backend.aopen()
    await backend.append([turn("s")])
    await backend.aclose()


# --- examine ---


async def levels(url):
    backend = make(url, size=50)
    await backend.aopen()
    findings = {finding.subject: finding for finding in await backend.examine()}
    await backend.aclose()
    assert all(finding.advice for finding in findings.values() if finding.level != "ok")
    return findings


async def test_what_a_sound_server_is_told_of(private_server):
    server = private_server("mysql", durable=True)
    findings = await levels(server.url)
    assert {finding.level for finding in findings.values()} == {"ok"}
    assert "MariaDB" in findings["server"].value
    assert findings["schema"].value == f"version {VERSION} in mysql"
    assert {"clock", "connections", "innodb_flush_log_at_trx_commit", "TLS", "engine", "charset"} <= set(findings)
    assert "sync_binlog" not in findings


async def test_what_is_unsound_is_found(private_server):
    server = private_server("mysql", "--max-connections=60", "--max-allowed-packet=1M", "--log-bin")
    backend = make(server.url)
    await backend.aopen()
    await backend.aclose()
    execute(
        server.url,
        "SET GLOBAL binlog_format = STATEMENT",
        "ALTER TABLE agentstore_messages ENGINE = Aria",
        "ALTER TABLE agentstore_state_floors DEFAULT CHARACTER SET latin1",
    )
    findings = await levels(server.url)
    assert {name: finding.level for name, finding in findings.items() if finding.level != "ok"} == {
        "engine": "unfit",
        "charset": "unfit",
        "max_allowed_packet": "unfit",
        "binlog_format": "unfit",
        "sync_binlog": "warning",
        "connections": "warning",
        "innodb_flush_log_at_trx_commit": "warning",
        "innodb_doublewrite": "warning",
        "innodb_flush_method": "warning",
    }


def test_the_shared_server_is_of_the_kind_that_was_asked_for():
    assert servers.shared("mysql").url.startswith("mysql://")
