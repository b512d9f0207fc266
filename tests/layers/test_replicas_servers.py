"""Replicas of real servers, whose replication is paused, who are killed, and come back."""

import asyncio
import dataclasses
import socket
import time
import uuid
from contextlib import closing

import pytest

import servers
from agentstore import ConfigurationError, RetryOptions, db
from agentstore.protocol import LaggingError
from agentstore.testing.common import elsewhere
from agentstore.url import StoreURL
from servers import mysql, postgresql
from servers.redis import client

pytestmark = pytest.mark.anyio

RETRY = RetryOptions(attempts=3, deadline=3.0)  # a replica that says nothing is waited for a third of it


async def until(condition):
    """Wait until `condition`, an async function, holds."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.02)


def said(text):
    return {"role": "user", "content": text}


async def has_come(backend):
    """Whether a replica has come as far as is required here."""
    try:
        await backend.ping()
    except LaggingError:
        return False
    return True


class Pair:
    """A primary with one replica, and a store of the test's own on them.

    Attributes:
        url, replica_url: Of the store.
        answered: How many reads the replica has answered.
    """

    def __init__(self, server, url, replica_url):
        self.server, self.url, self.replica_url = server, url, replica_url
        self.replica = server.server.processes[1]
        self.answered = 0

    def database(self, **settings):
        """With its replica, whose answers are counted."""
        database = db(self.url, replicas=[self.replica_url], retry=RETRY, **settings)
        (replica,) = database._stacks.sides[0].replicated.replicas
        for name in ("read", "heads", "list_sessions", "get_items", "scan"):
            setattr(replica.backend, name, self._counted(getattr(replica.backend, name)))
        return database

    def _counted(self, read):
        async def counted(argument):
            answer = await read(argument)
            self.answered += 1
            return answer

        return counted

    async def words(self, database, session_id="s"):
        return [message.content for message in await database.messages(session_id)]

    async def by_replica(self, database):
        """Wait until the replica answers."""
        before = self.answered

        async def answers():
            await database.messages("s")
            return self.answered > before

        await until(answers)

    async def kill(self):
        await asyncio.to_thread(self.server.kill, self.replica)

    async def start(self):
        await asyncio.to_thread(self.server.start, self.replica)


class Replicas:
    """What holds on every server; `Pair` says how its replication stops and goes on."""

    @pytest.fixture(scope="class")
    @classmethod
    def server(cls):
        with servers.private_server(cls.kind) as server:
            yield server

    @pytest.fixture
    def pair(self, server):
        pair = self.pair_of(server, f"test_{uuid.uuid4().hex}")
        yield pair
        if not pair.replica.running:
            server.start(pair.replica)
        pair.go_on()

    async def test_reads_arrive_at_the_replica(self, pair):
        async with pair.database() as database, elsewhere(db(pair.url)) as other:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            pair.hold()
            await other.append("s", said("of another"))
            before = pair.answered
            assert await pair.words(database) == ["own"]  # only the replica does not know better
            assert (await database.session("s")).message_count == 1
            assert pair.answered == before + 2
            pair.go_on()

            async def both():
                return await pair.words(database) == ["own", "of another"]

            await until(both)
            assert pair.url.partition("@")[2].partition("/")[0] in "".join(pool.url for pool in database.stats().pools)
            assert len({pool.url.partition("@")[2].partition("/")[0] for pool in database.stats().pools}) == 2

    async def test_own_writes_are_seen_while_replication_rests(self, pair):
        async with pair.database() as database, elsewhere(db(pair.url)) as other:
            await other.append("there before", said("hello"))
            await database.append("s", said("first"))
            await pair.by_replica(database)
            pair.hold()
            before = pair.answered
            await database.append("s", said("second"), metadata={"topic": "x"})
            await database.state.set("k", 5)
            assert await pair.words(database) == ["first", "second"]
            assert (await database.session("s")).metadata == {"topic": "x"}
            assert [session.id for session in (await database.sessions()).items] == ["s", "there before"]
            assert await database.state.get("k") == 5
            assert [item.key for item in await database.state.scan()] == ["k"]
            await database.pop("s")
            assert await pair.words(database) == ["first"]
            assert pair.answered == before
            assert await pair.words(database, "there before") == ["hello"]
            assert pair.answered == before + 1
            pair.go_on()
            await pair.by_replica(database)
            assert await pair.words(database) == ["first"]
            assert await database.state.get("k") == 5

    async def test_every_read_of_a_busy_process_sees_its_writes(self, pair):
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)

            async def converse(session_id):
                for number in range(25):
                    await database.append(session_id, said(str(number)))
                    await database.state.set(session_id, number)
                    assert await pair.words(database, session_id) == [str(n) for n in range(number + 1)]
                    assert await database.state.get(session_id) == number
                    assert await pair.words(database) == ["own"]

            before = pair.answered
            await asyncio.gather(*(converse(f"s{number}") for number in range(8)))
            assert pair.answered > before
            assert database.stats().errors == {}

    async def test_one_that_is_killed_costs_no_error_and_is_used_when_it_is_back(self, pair):
        async with pair.database() as database:
            await database.append("s", said("0"))
            await pair.by_replica(database)
            await pair.kill()
            before = pair.answered
            for number in range(1, 30):
                assert len(await pair.words(database)) == number
                await database.append("s", said(str(number)))
            assert pair.answered == before
            starting = asyncio.create_task(pair.start())
            while not starting.done():  # it is starting up, and catching up
                assert len(await pair.words(database)) == 30
                await asyncio.sleep(0.01)
            await starting
            await pair.by_replica(database)
            assert len(await pair.words(database)) == 30
            assert database.stats().errors == {}

    async def test_one_that_hangs_costs_no_error(self, pair):
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            pair.replica.pause()
            try:
                start = time.monotonic()
                assert await asyncio.gather(*(pair.words(database) for _ in range(5))) == [["own"]] * 5
                assert time.monotonic() - start < RETRY.deadline
                for _ in range(20):
                    assert await pair.words(database) == ["own"]
            finally:
                pair.replica.resume()
            await pair.by_replica(database)
            assert database.stats().errors == {}

    async def test_one_that_has_nothing_yet_is_left_out_until_it_has(self, pair):
        pair.hold()
        async with pair.database() as database:
            await database.append("s", said("own"))
            assert await pair.words(database) == ["own"]
            assert pair.answered == 0
            pair.go_on()
            await pair.by_replica(database)
            assert await pair.words(database) == ["own"]

    async def test_one_that_is_away_at_the_start_is_found_later(self, pair):
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)
        await pair.kill()
        async with pair.database() as database:
            assert await pair.words(database) == ["own"]
            await pair.start()
            await pair.by_replica(database)
            assert await pair.words(database) == ["own"]

    async def test_a_write_that_was_deferred_is_seen_when_it_is_stored(self, pair, tmp_path, monkeypatch):
        monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path))
        async with pair.database(durability="memory") as database:
            await database.append("s", said("first"))
            await database.flush()
            await pair.by_replica(database)
            pair.hold()
            await database.append("s", said("second"))
            await database.state.set("k", 1)
            await database.flush()
            assert await pair.words(database) == ["first", "second"]
            assert await database.state.get("k") == 1

    async def test_what_was_written_before_the_start_is_seen(self, pair):
        async with pair.database() as database:
            await database.append("s", said("first"))
            await pair.by_replica(database)
        pair.hold()
        async with db(pair.url) as database:
            await database.append("s", said("second"))
        async with pair.database() as database:
            assert await pair.words(database) == ["first", "second"]

    async def test_what_other_databases_of_this_process_write_is_seen(self, pair):
        async with pair.database() as database, pair.database() as alike, db(pair.url) as plain:
            await plain.append("s", said("first"))
            await pair.by_replica(database)
            pair.hold()
            await alike.append("s", said("second"))
            assert await pair.words(database) == ["first", "second"]
            await plain.append("s", said("third"))
            await plain.state.set("k", 1)
            assert await pair.words(database) == await pair.words(alike) == ["first", "second", "third"]
            assert await database.state.get("k") == 1

    async def test_a_session_is_exported_and_forked_from_the_primary(self, pair):
        async with pair.database() as database, elsewhere(db(pair.url)) as other:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            pair.hold()
            await other.append("s", said("of another"))
            exported = await database.export_session("s")
            assert [message["content"] for message in exported["messages"]] == ["own", "of another"]
            assert (await database.fork("s", "copy")).message_count == 2


def with_option(url, **options):
    return dataclasses.replace(StoreURL.parse(url), options=options).secret


class TestPostgreSQL(Replicas):
    kind = "postgresql-replicated"

    class Pair(Pair):
        def hold(self):
            postgresql.execute(self.server.server.replica_url, "SELECT pg_wal_replay_pause()")
            self.wait_for("pg_get_wal_replay_pause_state() = 'paused'")

        def go_on(self):
            postgresql.execute(self.server.server.replica_url, "SELECT pg_wal_replay_resume()")

        def wait_for(self, condition):
            while not postgresql.execute(self.server.server.replica_url, f"SELECT {condition}"):
                time.sleep(0.01)

    def pair_of(self, server, name):
        urls = [with_option(url, schema=name) for url in (server.url, server.server.replica_url)]
        return self.Pair(server, *urls)

    async def test_a_standby_that_was_promoted_is_left_out(self, caplog):
        with servers.private_server(self.kind) as server:
            pair = self.Pair(server, server.url, server.server.replica_url)
            async with pair.database() as database:
                await database.append("s", said("own"))
                await pair.by_replica(database)
                postgresql.execute(server.server.replica_url, "SELECT pg_promote()")
                await database.append("s", said("second"))
                before = pair.answered
                for _ in range(20):
                    assert await pair.words(database) == ["own", "second"]
                assert pair.answered == before
                assert "is no standby" in caplog.text

    async def test_a_standby_of_another_cluster_is_refused(self, pair):
        stranger = with_option(servers.shared("postgresql").url, schema=StoreURL.parse(pair.url).options["schema"])
        with pytest.raises(ConfigurationError, match="belongs to another cluster"):
            await db(pair.url, replicas=[stranger]).aopen()

    async def test_a_user_without_rights_on_the_server_will_do(self, pair):
        role = f"plain_{uuid.uuid4().hex}"
        schema = StoreURL.parse(pair.url).options["schema"]
        postgresql.execute(pair.url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'")
        postgresql.execute(pair.url, f"CREATE SCHEMA {schema} AUTHORIZATION {role}")
        urls = [
            dataclasses.replace(StoreURL.parse(url), username=role, password="x").secret
            for url in (pair.url, pair.replica_url)
        ]
        plain = self.Pair(pair.server, *urls)
        async with plain.database() as database:
            await database.append("s", said("own"))
            await plain.by_replica(database)

    async def test_a_log_that_ends_with_a_page_can_be_reached(self, pair):
        """The next record goes behind the next page's header; a standby comes there only with that record."""
        emit = "SELECT pg_logical_emit_message(false, 'x', repeat('x', {}))"

        def at():
            return postgresql.execute(pair.url, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")

        def fill_a_page(around):
            while (here := at() % 8192) not in {24, 40}:
                postgresql.execute(pair.url, emit.format(max(8, 8192 - here - around)))

        start = at()
        postgresql.execute(pair.url, emit.format(1000))
        around = at() - start - 1000
        async with pair.database() as database:
            layer = database._stacks.sides[0].replicated
            await pair.by_replica(database)

            async def reached():
                await asyncio.to_thread(fill_a_page, around)
                position = await layer.fence.look()
                if position is None or int(position.text.rpartition("/")[2]) % 8192:
                    return False  # the server has written something of its own in between
                with layer.fence.requiring(position):
                    await until(lambda: has_come(layer.replicas[0].backend))
                return True

            await until(reached)

    async def test_through_a_pooler_each_answer_is_checked(self, pair):
        """A standby stands in for a pooler's: what matters is what is sent when there is one."""
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            (replica,) = database._stacks.sides[0].replicated.replicas
            replica.backend._connector.pooled = True
            before = pair.answered
            assert await pair.words(database) == ["own"]
            assert pair.answered == before + 1
            pair.hold()
            await database.append("s", said("second"))
            assert await pair.words(database) == ["own", "second"]
            assert pair.answered == before + 1


class TestMySQL(Replicas):
    kind = "mysql-replicated"

    class Pair(Pair):
        def hold(self):
            mysql.execute(self.server.server.replica_url, "STOP SLAVE SQL_THREAD")

        def go_on(self):
            mysql.execute(self.server.server.replica_url, "START SLAVE SQL_THREAD")

    def pair_of(self, server, name):
        url = mysql.MySQL.create(server.url, name)
        replica = dataclasses.replace(StoreURL.parse(server.server.replica_url), path=f"/{name}").secret
        schemata = f"SELECT count(*) FROM information_schema.schemata WHERE schema_name = '{name}'"
        while not mysql.execute(server.server.replica_url, schemata):
            time.sleep(0.02)
        return self.Pair(server, url, replica)

    async def test_a_primary_without_a_binary_log_is_read_itself(self, fresh, pair, caplog):
        url = fresh("mysql")
        replica = dataclasses.replace(StoreURL.parse(pair.replica_url), path=StoreURL.parse(url).path).secret
        mysql.MySQL.create(pair.url, StoreURL.parse(url).path[1:])
        async with db(url, replicas=[replica], retry=RETRY) as database:
            await database.append("s", said("own"))
            assert await pair.words(database) == ["own"]
        assert "all reads go to the primary (it does not say how far it has come)" in caplog.text


class TestRedis(Replicas):
    kind = "redis-replicated"

    class Pair(Pair):
        def hold(self):
            with socket.socket() as nobody:
                nobody.bind(("127.0.0.1", 0))
                self._follow("127.0.0.1", nobody.getsockname()[1])

        def go_on(self):
            ((host, port),) = StoreURL.parse(self.server.url).hosts
            self._follow(host, port)

        def _follow(self, *master):
            self.command("REPLICAOF", *master)

        def command(self, *words):
            with closing(client(self.server.server.replica_url)) as replica:
                return replica.execute_command(*words)

    def pair_of(self, server, name):
        urls = [with_option(url, prefix=name) for url in (server.url, server.server.replica_url)]
        return self.Pair(server, *urls)

    async def test_one_that_has_lost_its_data_is_not_believed(self, pair):
        """As after a restart without any: it follows its master, and serves what it has, before it has synchronised."""
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            pair.command("REPLICAOF", "NO", "ONE")
            pair.command("FLUSHALL")
            pair.hold()
            before = pair.answered
            for _ in range(10):
                assert await pair.words(database) == ["own"]
            assert pair.answered == before

    async def test_one_that_was_promoted_is_left_out(self, pair, caplog):
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)
            pair.command("REPLICAOF", "NO", "ONE")
            before = pair.answered
            for _ in range(10):
                assert await pair.words(database) == ["own"]
            assert pair.answered == before
            assert "is no replica" in caplog.text

    async def test_a_steady_read_is_one_round_trip_to_the_replica(self, pair):
        async with pair.database() as database:
            await database.append("s", said("own"))
            await pair.by_replica(database)

            def figures(url):
                with closing(client(url)) as connection:
                    stats = connection.info("commandstats")
                return {name: stats[name]["calls"] for name in ("cmdstat_get", "cmdstat_zrangebylex") if name in stats}

            before = figures(pair.server.url), figures(pair.server.server.replica_url)
            for _ in range(10):
                await database.messages("s")
            after = figures(pair.server.url), figures(pair.server.server.replica_url)
            assert after[0] == before[0]
            assert after[1]["cmdstat_zrangebylex"] == before[1]["cmdstat_zrangebylex"] + 10

    async def test_a_failover_by_sentinels_leaves_own_writes_seen(self, private_server):
        server = private_server("redis-sentinel")
        master, replica, _ = server.server.processes
        port = replica.command[replica.command.index("--port") + 1]
        login = StoreURL.parse(server.url)
        url = dataclasses.replace(login, scheme="redis", hosts=(("127.0.0.1", int(port)),), path="/0").secret
        retry = RetryOptions(attempts=50, deadline=60.0)
        async with db(server.url, replicas=[url], retry=retry) as database:
            await database.append("s", said("first"))
            (follower,) = database._stacks.sides[0].replicated.replicas

            async def arrived():
                await database.messages("s")
                return follower.breaker.since is None and not follower._pause._length

            await until(arrived)
            await asyncio.to_thread(server.kill, master)
            await database.append("s", said("second"))
            for _ in range(10):
                assert [message.content for message in await database.messages("s")] == ["first", "second"]
            assert database.stats().errors == {}
