"""What the drivers' maps say of an error: whether it passes, whether the server said it, whether anything was sent."""

import asyncio
import sqlite3

import asyncpg
import pytest
from pymongo import errors as mongo
from pymysql import err as pymysql
from redis import exceptions as redis

from agentstore.drivers.clickhouse import errors as clickhouse_errors
from agentstore.drivers.clickhouse.errors import ServerException
from agentstore.drivers.json.failures import translated as json_translated
from agentstore.drivers.mongodb import errors as mongodb_errors
from agentstore.drivers.mysql import errors as mysql_errors
from agentstore.drivers.postgresql import errors as postgresql_errors
from agentstore.drivers.redis import errors as redis_errors
from agentstore.drivers.sqlite import errors as sqlite_errors
from agentstore.errors import ConfigurationError, PoolTimeoutError, UnavailableError
from agentstore.loop_pool import LoopPool
from agentstore.options import PoolOptions
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

DOWN, PASSING, LASTING, NEVER = "down", "passing, and the server said so", "lasting", "not unavailable at all"


def kind(error):
    if not isinstance(error, UnavailableError):
        return NEVER
    if not error.passing:
        return LASTING
    return PASSING if error.answered else DOWN


def state(code):
    return asyncpg.PostgresError.new({"C": code, "M": code})


def code(number):
    return pymysql.OperationalError(number, "said")


def said(words):
    return redis.ResponseError(words)


def locked(number):
    error = sqlite3.OperationalError("said")
    error.sqlite_errorcode = number
    return error


CASES = [
    (postgresql_errors, ConnectionRefusedError(), DOWN),
    (postgresql_errors, asyncpg.ConnectionDoesNotExistError("in mid-statement"), DOWN),
    (postgresql_errors, state("57P01"), DOWN),
    (postgresql_errors, state("57P03"), DOWN),
    (postgresql_errors, TimeoutError(), DOWN),
    (postgresql_errors, state("25006"), PASSING),
    (postgresql_errors, state("53300"), PASSING),
    (postgresql_errors, state("40P01"), PASSING),
    (postgresql_errors, state("53100"), LASTING),
    (postgresql_errors, state("53200"), LASTING),
    (postgresql_errors, state("57014"), LASTING),
    (postgresql_errors, state("55P03"), LASTING),
    (postgresql_errors, state("28P01"), NEVER),
    (postgresql_errors, state("3D000"), NEVER),
    (mysql_errors, code(2003), DOWN),
    (mysql_errors, code(2013), DOWN),
    (mysql_errors, code(1053), DOWN),
    (mysql_errors, TimeoutError(), DOWN),
    (mysql_errors, code(1290), PASSING),
    (mysql_errors, code(1040), PASSING),
    (mysql_errors, code(1205), LASTING),
    (mysql_errors, code(1021), LASTING),
    (mysql_errors, code(3024), LASTING),
    (mysql_errors, code(1045), NEVER),
    (mysql_errors, code(1049), NEVER),
    (redis_errors, ConnectionRefusedError(), DOWN),
    (redis_errors, redis.ConnectionError("lost"), DOWN),
    (redis_errors, redis.BusyLoadingError("LOADING"), DOWN),
    (redis_errors, TimeoutError(), DOWN),
    (redis_errors, redis.ReadOnlyError("READONLY"), PASSING),
    (redis_errors, redis.ClusterDownError("CLUSTERDOWN"), PASSING),
    (redis_errors, said("OOM no memory"), LASTING),
    (redis_errors, said("MISCONF disk"), LASTING),
    (redis_errors, redis.AuthenticationError("WRONGPASS"), NEVER),
    (mongodb_errors, mongo.ServerSelectionTimeoutError("none"), DOWN),
    (mongodb_errors, mongo.AutoReconnect("lost"), DOWN),
    (mongodb_errors, mongo.NetworkTimeout("silent"), DOWN),
    (mongodb_errors, mongo.OperationFailure("stepped down", 189), PASSING),
    (mongodb_errors, mongo.ExecutionTimeout("slow", 50), LASTING),
    (mongodb_errors, mongo.OperationFailure("full", 14031), LASTING),
    (mongodb_errors, mongo.WaitQueueTimeoutError("in line"), LASTING),
    (mongodb_errors, mongo.OperationFailure("who?", 18), NEVER),
    (clickhouse_errors, clickhouse_errors.asynch.NetworkError("refused"), DOWN),
    (clickhouse_errors, ServerException("lost", 210), DOWN),
    (clickhouse_errors, TimeoutError(), DOWN),
    (clickhouse_errors, ServerException("too many parts", 252), PASSING),
    (clickhouse_errors, ServerException("no space", 243), LASTING),
    (clickhouse_errors, ServerException("who?", 516), NEVER),
    (sqlite_errors, locked(sqlite3.SQLITE_BUSY), LASTING),
    (sqlite_errors, locked(sqlite3.SQLITE_FULL), LASTING),
    (sqlite_errors, locked(sqlite3.SQLITE_READONLY), LASTING),
    (sqlite_errors, locked(sqlite3.SQLITE_SCHEMA), PASSING),
]


@pytest.mark.parametrize(("driver", "error", "expected"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_what_becomes_of_an_error(driver, error, expected):
    assert kind(driver.translated(error, "db://h/x")) == expected


def test_the_disk_of_json_files_does_not_mend_itself():
    for raised, expected in ((OSError(28, "full"), LASTING), (PermissionError(13, "no"), LASTING)):
        with pytest.raises(UnavailableError) as caught, json_translated("here"):
            raise raised
        assert kind(caught.value) == expected
    damaged = locked(sqlite3.SQLITE_CORRUPT)
    with pytest.raises(UnavailableError) as caught, json_translated("here"):
        raise damaged
    assert kind(caught.value) == PASSING


def test_redis_tells_whether_anything_was_sent():
    error = redis.ConnectionError("lost")
    assert redis_errors.translated(error, "h", sent=False).unsent
    assert not redis_errors.translated(error, "h").unsent


class Native:
    """A pool that cannot connect."""

    def __init__(self, error):
        self.error = error

    async def acquire(self):
        if self.error is None:
            await asyncio.sleep(60)
        raise self.error


@pytest.mark.parametrize("error", [None, UnavailableError("refused"), ConfigurationError("no such user")])
async def test_who_gets_no_connection_has_sent_nothing(error):
    options = PoolOptions(connect_timeout=0.05)
    pool = LoopPool(StoreURL.parse("postgresql://h/x"), options, lambda: Native(error), lambda _: None)
    with pytest.raises((UnavailableError, ConfigurationError)) as caught:
        await pool.acquire()
    assert getattr(caught.value, "unsent", False) is not isinstance(error, ConfigurationError)


def test_who_stood_in_line_for_a_connection_has_sent_nothing_and_is_not_tried_again():
    error = PoolTimeoutError("all in use", hint="Raise it")
    assert (error.unsent, error.passing) == (True, False)
    assert str(error) == "all in use. Raise it"
