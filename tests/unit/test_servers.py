"""The servers of the tests do what the tests rely on."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import asyncpg
import pymysql
import pytest
import redis

import servers
from agentstore.url import StoreURL
from servers import base, mysql, postgresql
from servers.redis import client

PACKAGE = Path(servers.__file__).parent


def until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_closed(url):
    host, port = StoreURL.parse(url).hosts[0]
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


@pytest.mark.parametrize("kind", servers.KINDS)
def test_fresh_stores_are_distinct(fresh, kind):
    one, other = fresh(kind), fresh(kind)
    assert one != other
    for url in (one, other):
        servers.KINDS[kind].ping(url.partition("?")[0])


@pytest.mark.parametrize("kind", ["postgresql", "pgbouncer", "mysql"])
def test_a_fresh_database_is_empty_and_goes(kind):
    execute = (mysql if kind == "mysql" else postgresql).execute
    schema = "database()" if kind == "mysql" else "'public'"
    tables = f"SELECT count(*) FROM information_schema.tables WHERE table_schema = {schema}"
    schemata = "information_schema.schemata WHERE schema_name" if kind == "mysql" else "pg_database WHERE datname"
    with servers.fresh(kind) as url, servers.fresh(kind) as other:
        execute(url, "CREATE TABLE t (x int)")
        assert (execute(url, tables), execute(other, tables)) == (1, 0)
        name = StoreURL.parse(url).path[1:]
        databases = f"SELECT count(*) FROM {schemata} = '{name}'"
        assert execute(servers.shared(kind).url, databases) == 1
    assert execute(servers.shared(kind).url, databases) == 0


@pytest.mark.parametrize("kind", ["redis", "redis-cluster", "redis-sentinel"])
def test_the_keys_of_a_fresh_prefix_go(kind):
    url = servers.shared(kind).url
    with servers.fresh(kind) as one, servers.fresh(kind) as other, closing(client(url)) as connection:
        keys = [StoreURL.parse(u).options["prefix"] + ":{s}" for u in (one, other)]
        for key in keys:
            connection.set(key, 1)
        servers.KINDS[kind].drop(url, StoreURL.parse(one).options["prefix"])
        assert [connection.exists(key) for key in keys] == [0, 1]


@pytest.mark.parametrize(("kind", "end"), [*((kind, "kill") for kind in servers.KINDS), ("postgresql", "stop")])
def test_a_private_server_comes_back_on_its_port(private_server, kind, end):
    server = private_server(kind)
    ping = servers.KINDS[kind].ping
    getattr(server, end)()
    assert is_closed(server.url)
    with pytest.raises(Exception, match=r"(?i)refused|connect|unreachable"):
        ping(server.url)
    server.start()
    ping(server.url)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_killed_server_keeps_what_it_committed(private_server, kind):
    server = private_server(kind)
    execute = {"postgresql": postgresql, "mysql": mysql}[kind].execute
    url = servers.KINDS[kind].create(server.url, "kept")
    execute(url, "CREATE TABLE t AS SELECT 1 AS x")
    server.kill()
    server.start()
    assert execute(url, "SELECT count(*) FROM t") == 1


def test_a_killed_redis_keeps_what_it_acknowledged(private_server):
    server = private_server("redis")
    with redis.Redis.from_url(server.url) as connection:
        connection.set("k", "v")
    server.kill()
    server.start()
    with redis.Redis.from_url(server.url) as connection:
        assert connection.get("k") == b"v"


def test_a_paused_server_hangs(private_server):
    server = private_server("redis")
    with redis.Redis.from_url(server.url, socket_timeout=0.05, retry=None) as connection:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            connection.ping()
        server.resume()
        until(lambda: _answers(connection))


def _answers(connection):
    try:
        return connection.ping()
    except redis.TimeoutError:
        return False


def test_a_sentinel_makes_the_replica_a_master(private_server):
    server = private_server("redis-sentinel")
    with closing(client(server.url)) as connection:
        connection.set("k", "v")
        connection.wait(1, 10_000)
    server.kill(server.server.processes[0])

    def is_back():
        try:
            with closing(client(server.url)) as connection:
                return connection.get("k") == b"v" and connection.set("k", "w")
        except redis.RedisError:
            return False

    until(is_back)


@pytest.mark.anyio
async def test_tls():
    running = servers.shared("postgresql")
    context = ssl.create_default_context(cafile=running.ca)
    connection = await asyncpg.connect(running.tls_url, ssl=context)
    assert await connection.fetchval("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
    await connection.close()
    running = servers.shared("mysql")
    parts = StoreURL.parse(running.tls_url)
    (host, port), login = parts.hosts[0], {"user": parts.username, "password": parts.password}
    with closing(pymysql.connect(host=host, port=port, **login, ssl=context)) as connection:
        cursor = connection.cursor()
        cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cursor.fetchone()[1]
    running = servers.shared("redis")
    with redis.Redis.from_url(running.tls_url, ssl_ca_certs=running.ca) as connection:
        assert connection.ping()
    with redis.Redis.from_url(running.tls_url, retry=None) as connection, pytest.raises(redis.ConnectionError):
        connection.ping()


def test_processes_of_a_run_share_a_server():
    run = servers.Run()
    ask = [sys.executable, "-c", "import servers; print(servers.shared('redis').url)"]
    environment = {**os.environ, servers.RUN: str(run.root), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        askers = [subprocess.Popen(ask, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
        urls = {asker.communicate()[0].strip() for asker in askers}
        assert len(urls) == 1
        (url,) = urls
        servers.KINDS["redis"].ping(url)  # it outlives who started it
    finally:
        run.close()
    assert is_closed(url)
    assert not run.root.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_outlives_the_run(number):
    command = [sys.executable, str(PACKAGE), "up", "postgresql", "redis"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        try:
            lines = [run.stdout.readline().strip() for _ in range(3)]
            urls = [line.partition("=")[2].strip("'") for line in lines[:2]]
            root = Path(lines[2].rpartition(" ")[2])
            assert (root / "postgresql.json").exists()
            assert not any(is_closed(url) for url in urls)
        finally:
            run.send_signal(number)
    until(lambda: all(is_closed(url) for url in urls) and not root.exists())


def test_a_missing_program_is_no_skip(monkeypatch):
    roots = []
    monkeypatch.setattr(base.shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr(servers.run, "make_root", lambda **_: roots.append(base.make_root(durable=False)) or roots[0])
    monkeypatch.setattr(servers.run.authority, "write_files", lambda folder: None)
    with (
        pytest.raises(
            servers.ServerError, match=r"redis-server is not installed.*make servers.*AGENTSTORE_TEST_REDIS_URL"
        ),
        servers.private_server("redis"),
    ):
        pytest.fail("it was found")
    assert not roots[0].exists()


def test_a_server_that_does_not_start_says_why(private_server):
    with pytest.raises(servers.ServerError, match=r"(?s)redis-server has ended.*no-such-setting"):
        private_server("redis", "--no-such-setting", "1")


def test_a_given_server_that_does_not_answer_is_no_skip(monkeypatch):
    monkeypatch.setenv("AGENTSTORE_TEST_REDIS_URL", f"redis://:secret@127.0.0.1:{base.free_port()}")
    with pytest.raises(servers.ServerError, match="AGENTSTORE_TEST_REDIS_URL does not answer") as caught:
        servers.shared("redis")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("options", "told", "code"), [((), "does not answer", 1), (("--found",), "Without redis", 0)])
def test_a_command_goes_without_a_missing_server_only_if_it_may(options, told, code):
    environment = {**os.environ, "AGENTSTORE_TEST_REDIS_URL": "redis://127.0.0.1:1"}
    command = [sys.executable, str(PACKAGE), *options, "run", "redis", "--", sys.executable, "-c", "print('ran')"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (code, "" if code else "ran\n")
    assert told in ran.stderr


def test_asking_inside_a_loop(fresh):
    async def ask():
        return fresh("postgresql")

    assert asyncio.run(ask())
