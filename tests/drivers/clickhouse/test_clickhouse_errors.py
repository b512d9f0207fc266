"""What ClickHouse's errors become, and how soon."""

import asyncio
import inspect
import ssl
import struct
import time

import pytest
from asynch import errors as asynch
from clickhouse_kit import chain, make, opened, turn

import servers
from agentstore import errors
from agentstore.drivers.clickhouse.errors import BY_CODE, BY_TYPE, RAISED, translated
from agentstore.protocol import Read, SetItems
from agentstore.url import StoreURL
from servers.base import PASSWORD, USER

pytestmark = pytest.mark.anyio

SOON = 5.0  # seconds


def classes():
    return [kind for _, kind in inspect.getmembers(asynch, inspect.isclass) if issubclass(kind, Exception)]


def instance(kind):
    return kind("what it says", 999_999) if issubclass(kind, asynch.ServerException) else kind("what it says")


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_code_becomes_an_error_of_ours(code):
    ours = translated(asynch.ServerException("what the server says\nand where", code), "clickhouse://a")
    assert type(ours) is BY_CODE[code].error
    assert "clickhouse://a" in str(ours)
    assert "what the server says" in str(ours)
    assert "and where" not in str(ours)


@pytest.mark.parametrize("kind", classes())
def test_every_class_of_the_library_becomes_an_error_of_ours(kind):
    assert issubclass(kind, RAISED)
    assert isinstance(translated(instance(kind), "clickhouse://a"), errors.AgentstoreError)


@pytest.mark.parametrize("kind", [ssl.SSLError, TimeoutError, OSError, EOFError, struct.error, IndexError])
def test_what_else_a_connection_raises_becomes_an_error_of_ours(kind):
    assert type(translated(kind("why"), "clickhouse://a")) is BY_TYPE[kind].error


@pytest.mark.parametrize(
    "wrong",
    [
        "clickhouse://a,b/c",
        "clickhouse://a/b/c",
        "clickhouse://a/b?verify=false",
        "clickhouses://a/b?verify=perhaps",
        "clickhouses://a/b?verify=false&ca_certs=/x",
        "clickhouse://user:%ff@a/b",
    ],
)
def test_urls_that_cannot_be_right(wrong):
    with pytest.raises(errors.ConfigurationError):
        make(wrong)


async def refused(url, expected, match, **options):
    """Open it in vain; all that is shown."""
    started = time.monotonic()
    backend = make(url, **options)
    with pytest.raises(expected, match=match) as caught:
        await backend.aopen()
    await backend.aclose()
    assert time.monotonic() - started < SOON
    shown = chain(caught.value)
    assert PASSWORD not in shown
    assert "hunter2" not in shown
    assert caught.value.hint
    return caught.value


def place(url):
    host, port = StoreURL.parse(url).hosts[0]
    return f"{host}:{port}"


async def test_a_wrong_password(fresh):
    url = fresh("clickhouse")
    await refused(f"clickhouse://{USER}:hunter2@{place(url)}/default", errors.ConfigurationError, "password")


async def test_an_unknown_user(fresh):
    url = fresh("clickhouse")
    await refused(f"clickhouse://nobody:hunter2@{place(url)}/default", errors.ConfigurationError, "password")


async def test_an_unknown_database(fresh):
    url = fresh("clickhouse") + "_not"
    await refused(url, errors.ConfigurationError, "no such database")


async def test_a_refused_connection():
    port = servers.base.free_port()
    error = await refused(f"clickhouse://u:hunter2@127.0.0.1:{port}/d", errors.UnavailableError, "reached")
    assert isinstance(error.__cause__, asynch.NetworkError)


async def test_an_unknown_host():
    await refused("clickhouse://u:hunter2@nowhere.invalid/d", errors.UnavailableError, "reached")


async def test_tls_to_a_port_without(fresh):
    url = fresh("clickhouse")
    await refused(f"clickhouses://u:hunter2@{place(url)}/default", errors.ConfigurationError, "TLS")


async def test_a_file_of_authorities_that_is_not_there():
    await refused("clickhouses://u:hunter2@localhost/d?ca_certs=/nowhere.pem", errors.ConfigurationError, "ca_certs")


async def test_something_else_answers():
    async def answer(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await refused(f"clickhouse://u:hunter2@127.0.0.1:{port}/d", errors.ConfigurationError, "native protocol")


async def test_a_server_that_says_nothing():
    async def say_nothing(reader, writer):
        await reader.read()
        writer.close()

    async with await asyncio.start_server(say_nothing, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"clickhouse://u:hunter2@127.0.0.1:{port}/d"
        await refused(url, errors.UnavailableError, "time|no connection could be made", connect_timeout=0.3)


async def test_a_statement_that_takes_too_long(private_server):
    server = private_server("clickhouse")
    async with opened(server.url, statement_timeout=0.2) as backend:
        await backend.append([turn("s")])
        server.pause()
        try:
            with pytest.raises(errors.UnavailableError, match="in time"):
                await backend.read([Read("s")])
        finally:
            server.resume()
        ((found,),) = await backend.read([Read("s")])
        assert found.content == "hello"


async def test_tables_taken_away_under_way(fresh):
    async with opened(fresh("clickhouse")) as backend:
        await backend.append([turn("s")])
        await backend.write_items([SetItems("n", {"k": 1})])
        create = await backend._read(lambda link: link.select("SHOW CREATE TABLE agentstore_log"))
        await backend._read(lambda link: link.select("DROP TABLE agentstore_log"))
        for _ in range(2):
            (outcome,) = await backend.append([turn("s")])
            assert isinstance(outcome, errors.CorruptRecordError)
        with pytest.raises(errors.CorruptRecordError, match="tables"):
            await backend._read(lambda link: link.insert("agentstore_log", "kind", [(0,)]))
        await backend._read(lambda link: link.select(create[0][0]))
        ((stored,),) = await backend.append([turn("s", "anew")])
        assert stored.content == "anew"


async def test_an_insert_that_the_server_refuses_leaves_no_connection_out_of_step(fresh):
    async with opened(fresh("clickhouse"), size=1) as backend:
        for _ in range(3):
            with pytest.raises(errors.AgentstoreError):
                await backend._read(_insert_after_a_change)
            await backend._read(lambda link: link.select("DROP TABLE t"))
            await backend.ping()


async def _insert_after_a_change(link):
    await link.select("CREATE TABLE t (a Int64) ENGINE = MergeTree ORDER BY a")
    await link.insert("t", "a", [(1,)])
    await link.insert("t", "a", [(2,)])
    assert await link.select("SELECT a FROM t ORDER BY a") == [(1,), (2,)]
    await link.select("DROP TABLE t")
    await link.select("CREATE TABLE t (b Int64) ENGINE = MergeTree ORDER BY b")
    await link.insert("t", "a", [(3,)])
