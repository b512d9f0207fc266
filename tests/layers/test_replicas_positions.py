"""Positions of primaries, and who has reached them, where no server at hand can show it."""

import pytest

from agentstore import PoolOptions, UnavailableError
from agentstore.drivers.mysql import following as mysql
from agentstore.drivers.postgresql import following as postgresql
from agentstore.drivers.redis.backend import RedisBackend
from agentstore.protocol import LaggingError
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

PAGE, SEGMENT = 8192, 2**24


@pytest.mark.parametrize(
    ("lsn", "end"),
    [
        (5 * PAGE + 24, 5 * PAGE),
        (3 * SEGMENT + 40, 3 * SEGMENT),
        (5 * PAGE + 40, 5 * PAGE + 40),  # the end of a record that began a page before
        (5 * PAGE + 32, 5 * PAGE + 32),
        (5 * PAGE, 5 * PAGE),
    ],
)
def test_behind_a_header_there_is_no_record_yet(lsn, end):
    assert postgresql._end(lsn, PAGE, SEGMENT) == end


def test_a_position_of_postgresql_comes_back_from_its_text():
    position = postgresql.Position(7711741825030354991, 2, 2**40)
    assert postgresql.Position.of(str(position)) == position


class Wire:
    """A connection to a MySQL or MariaDB that answers one question."""

    place = "mysql://h/x"

    def __init__(self, answer, *, mariadb):
        self.connection = self
        self.is_mariadb = mariadb
        self.reached = None
        self.answer = answer
        self.asked = []

    async def send(self, *statements):
        self.asked += statements
        return [[[self.answer]]]


async def read(wire, required):
    async def work(_):
        return "read"

    return await mysql.Following(lambda: required).read(wire, work)


@pytest.mark.parametrize(
    ("required", "applied"),
    [
        ("0-1-100", "0-1-100"),
        ("0-1-100", "0-1-2000"),
        ("0-1-100,7-3-5", "7-3-5,0-1-100,9-9-9"),
    ],
)
async def test_a_mariadb_has_reached_what_it_has_applied(required, applied):
    wire = Wire(applied, mariadb=True)
    for _ in range(3):
        assert await read(wire, required) == "read"
    assert wire.asked == ["SELECT @@GLOBAL.gtid_slave_pos"]  # known from then on


@pytest.mark.parametrize(
    ("required", "applied"),
    [
        ("0-1-100", "0-1-99"),
        ("0-1-100", ""),
        ("0-1-100,7-3-5", "0-1-100"),
        ("0-1-100,7-3-5", "0-1-100,7-3-4"),
        ("0-2-100", "0-1-105"),  # of a primary that was, and has written what the new one never had
    ],
)
async def test_a_mariadb_has_not_reached_what_it_has_not_applied(required, applied):
    wire = Wire(applied, mariadb=True)
    for asked in (1, 2):
        with pytest.raises(LaggingError, match="not as far as its primary was"):
            await read(wire, required)
        assert len(wire.asked) == asked


async def test_a_mysql_is_asked_for_the_set():
    required = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"
    wire = Wire("1", mariadb=False)
    assert await read(wire, required) == "read"
    assert wire.asked == [f"SELECT GTID_SUBSET('{required}', @@GLOBAL.gtid_executed)"]
    with pytest.raises(LaggingError):
        await read(Wire("0", mariadb=False), required)


@pytest.mark.parametrize(("mariadb", "answer"), [(True, "0-1-5"), (False, "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5")])
async def test_the_position_is_what_the_server_has_logged_or_unknown(mariadb, answer):
    assert await mysql.position(Wire(answer, mariadb=mariadb)) == answer
    assert await mysql.position(Wire("", mariadb=mariadb)) is None


STREAM, OTHER = "a" * 40, "b" * 40


def info(**fields):
    return "".join(f"{name}:{value}\r\n" for name, value in fields.items()).encode()


def redis(required):
    primary, replica = (RedisBackend(StoreURL.parse(f"redis://{host}"), PoolOptions()) for host in ("p", "r"))
    replica.follow(primary, lambda: required)
    return replica._wire.following


@pytest.mark.parametrize("offset", [100, 5000])
def test_a_redis_has_reached_what_it_has_of_the_same_stream(offset):
    redis(f"{STREAM}:100").check(info(role="slave", master_replid=STREAM, slave_repl_offset=offset))
    redis(None).check(info(role="slave", master_replid=OTHER, slave_repl_offset=0))


@pytest.mark.parametrize(
    ("error", "fields"),
    [
        (LaggingError, {"role": "slave", "master_replid": STREAM, "slave_repl_offset": 99}),
        (LaggingError, {"role": "slave", "master_replid": OTHER, "slave_repl_offset": 5000}),
        (LaggingError, {"role": "slave", "master_replid": STREAM}),
        (UnavailableError, {"role": "master", "master_replid": STREAM, "master_repl_offset": 5000}),
    ],
)
def test_a_redis_has_not_reached_what_it_does_not_have(error, fields):
    with pytest.raises(UnavailableError) as caught:
        redis(f"{STREAM}:100").check(info(**fields))
    assert type(caught.value) is error
