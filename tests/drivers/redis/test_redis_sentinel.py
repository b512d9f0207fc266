"""A master that fails, and the replica that takes its place."""

from contextlib import closing

import pytest
from redis.exceptions import ResponseError
from redis_kit import eventually, make, turn, with_options, with_parts

from agentstore import errors
from agentstore.protocol import Read
from agentstore.url import StoreURL
from servers.redis import client, node

pytestmark = pytest.mark.anyio


async def test_the_next_call_goes_to_the_new_master(private_server):
    server = private_server("redis-sentinel")
    backend = make(server.url)
    await backend.aopen()
    await backend.append([turn("s", "one")])
    with closing(client(server.url)) as master:
        assert master.wait(1, 20_000) == 1, "the replica has it"
    server.kill(server.server.processes[0])
    op = turn("s", "two")

    async def written():
        (outcome,) = await backend.append([op])  # a retry is safe, also where the answer was lost
        if isinstance(outcome, errors.AgentstoreError):
            assert isinstance(outcome, errors.UnavailableError), outcome
            return False
        return True

    await eventually(written)
    (found,) = await backend.read([Read("s")])
    assert [message.content for message in found] == ["one", "two"]
    assert any(f.subject == "server" and "master" in f.value for f in await backend.examine())
    await backend.aclose()


async def test_a_master_that_became_a_replica_is_left(private_server):
    server = private_server("redis-sentinel")
    backend = make(server.url)
    await backend.aopen()
    await backend.append([turn("s", "one")])
    with closing(client(server.url)) as master:
        assert master.wait(1, 20_000) == 1
    ((_, sentinel),) = StoreURL.parse(server.url).hosts

    async def switched():
        with closing(node(sentinel, None)) as connection:
            try:
                return connection.execute_command("SENTINEL", "FAILOVER", "mymaster")
            except ResponseError as error:
                if "NOGOODSLAVE" not in str(error):
                    raise
                return False  # it does not know the replica yet

    await eventually(switched)

    async def appended():
        (outcome,) = await backend.append([op])
        return isinstance(outcome, list)

    op = turn("s", "two")
    await eventually(appended)
    (found,) = await backend.read([Read("s")])
    assert [message.content for message in found] == ["one", "two"]
    await backend.aclose()


async def test_a_replica_takes_no_writes(private_server):
    server = private_server("redis-sentinel")
    process = server.server.processes[1]
    port = int(process.command[process.command.index("--port") + 1])
    backend = make(with_parts(server.url, scheme="redis", hosts=(("127.0.0.1", port),), path=""))
    with pytest.raises(errors.UnavailableError, match="replica"):
        await backend.aopen()
    await backend.aclose()


async def test_sentinels_that_are_away_are_passed_over(fresh):
    url = fresh("redis-sentinel")
    hosts = (("127.0.0.1", 1), *StoreURL.parse(url).hosts)
    backend = make(with_parts(url, hosts=hosts))
    await backend.aopen()
    (stored,) = await backend.append([turn("s")])
    assert stored[0].seq == 1
    await backend.aclose()


async def test_a_password_that_the_sentinels_do_not_want(fresh):
    backend = make(with_options(fresh("redis-sentinel"), sentinel_password="s3cr3t-word"))
    with pytest.raises(errors.ConfigurationError, match="user name or password") as caught:
        await backend.aopen()
    assert "s3cr3t" not in str(caught.value)
    await backend.aclose()
