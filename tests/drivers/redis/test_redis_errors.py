"""What redis-py's errors become, and what a server that does not let us in is told to be."""

import asyncio
import inspect
import time
import traceback

import pytest
import redis.exceptions
from redis_kit import make, say, turn, with_options, with_parts

from agentstore import RetryOptions, db, errors
from agentstore.drivers.redis.errors import _BUG, BY_CODE, BY_TEXT, BY_TYPE, RAISED, _meaning, translated
from agentstore.protocol import Head, Read
from agentstore.url import StoreURL
from servers import shared
from servers.base import HOST, PASSWORD, free_port
from servers.redis import node

pytestmark = pytest.mark.anyio

THEIRS = [
    kind
    for _, kind in inspect.getmembers(redis.exceptions, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == "redis.exceptions"
]
NEVER_MET = {  # of features that are not used here
    "ChildDeadlockedError",
    "IncorrectPolicyType",
}
MISUSE = {"DataError", "LockError", "LockNotOwnedError", "PubSubError", "RedisError", "WatchError"}


def instance(kind):
    for arguments in ((), ("MOVED 1 h:1",), ("1 h:1",)):
        try:
            return kind(*arguments)
        except (TypeError, ValueError):
            continue
    raise AssertionError(f"nobody knows how to make a {kind}")


@pytest.mark.parametrize("kind", THEIRS, ids=lambda kind: kind.__name__)
def test_every_class_of_the_library_is_mapped(kind):
    if kind.__name__ in NEVER_MET:
        assert not issubclass(kind, RAISED)
        return
    assert issubclass(kind, RAISED)
    error = instance(kind)
    ours = translated(error, "redis://h:1")
    assert isinstance(ours, errors.AgentstoreError)
    assert ours.__cause__ is error
    assert "redis://h:1" in str(ours)
    cross_slot = kind.__name__ == "ClusterCrossSlotError"
    assert (_meaning(error) is _BUG) == (kind.__name__ in MISUSE or cross_slot), "mapped, not caught by chance"


@pytest.mark.parametrize("word", BY_CODE)
def test_every_code_of_the_servers_is_mapped(word):
    assert type(translated(redis.exceptions.ResponseError(f"{word} why"), "x")) is BY_CODE[word].error


@pytest.mark.parametrize("words", BY_TEXT)
def test_every_known_text_is_mapped(words):
    assert type(translated(redis.exceptions.ResponseError(f"ERR {words}, so"), "x")) is BY_TEXT[words].error


@pytest.mark.parametrize("kind", BY_TYPE, ids=lambda kind: kind.__name__)
def test_what_an_error_was_raised_for_counts(kind):
    error = instance(kind)
    assert _meaning(error).error is BY_TYPE[kind].error
    outer = redis.exceptions.ConnectionError("it wraps them")
    outer.__context__ = error
    if issubclass(kind, OSError) and kind not in {OSError, TimeoutError}:
        assert _meaning(outer) is BY_TYPE[kind]


async def refused(url, kind, says):
    """Both the call and what it printed must be right, and quick."""
    start = time.monotonic()
    database = db(url, retry=RetryOptions(attempts=1))
    with pytest.raises(kind, match=says) as caught:
        await database.append("s", say())
    assert time.monotonic() - start < 5
    password = StoreURL.parse(url).password or PASSWORD
    printed = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert password not in printed
    assert caught.value.hint
    assert isinstance(caught.value.__cause__, Exception)
    await database.aclose()
    return caught.value


async def test_a_wrong_password(url):
    await refused(with_parts(url, password="s3cr3t-word"), errors.ConfigurationError, "user name or password")


async def test_no_password(url):
    await refused(with_parts(url, password=None), errors.ConfigurationError, "user name or password")


async def test_a_user_that_is_not_there(url):
    await refused(with_parts(url, username="nobody"), errors.ConfigurationError, "user name or password")


async def test_a_database_that_is_not_there(url):
    await refused(with_parts(url, path="/4711"), errors.ConfigurationError, "no database of that number")


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_nobody_listens(scheme):
    path = "/main" if scheme == "redis+sentinel" else ""
    await refused(f"{scheme}://:pa55word@{HOST}:{free_port()}{path}", errors.UnavailableError, "nobody listens")


async def test_no_such_host():
    await refused("redis://nowhere.invalid", errors.UnavailableError, "no host of that name")


async def test_no_such_socket(tmp_path):
    await refused(f"redis+unix://{tmp_path}/socket", errors.ConfigurationError, "not there")


async def test_a_server_that_is_no_cluster(url):
    await refused(with_parts(url, scheme="redis+cluster", path=""), errors.ConfigurationError, "not part of a cluster")


async def test_a_server_of_a_cluster_as_one_alone(fresh):
    url = fresh("redis-cluster")
    one = with_parts(url, scheme="redis", hosts=StoreURL.parse(url).hosts[:1])
    database = db(one)
    results = await asyncio.gather(*(database.append(f"s{n}", say()) for n in range(20)), return_exceptions=True)
    told = [result for result in results if isinstance(result, errors.ConfigurationError)]
    assert told, "some session is another server's"
    assert all("one of a cluster" in str(error) for error in told)
    await database.aclose()


async def test_a_service_that_no_sentinel_knows(fresh):
    url = with_parts(fresh("redis-sentinel"), path="/other")
    await refused(url, errors.UnavailableError, "no sentinel knows")


# --- TLS ---


def tls(**options):
    running = shared("redis")
    return with_options(running.tls_url, prefix="test_tls", **options)


async def test_tls_verified(url):
    running = shared("redis")
    prefix = StoreURL.parse(url).options["prefix"]
    async with db(with_options(running.tls_url, tls_ca=running.ca, prefix=prefix)) as database:
        await database.append("s", say("over TLS"))
    async with db(url) as database:
        assert [message.content for message in await database.messages("s")] == ["over TLS"]


async def test_a_certificate_that_nobody_vouches_for():
    await refused(tls(), errors.ConfigurationError, "not to be trusted")


async def test_a_name_that_the_certificate_does_not_have():
    parts = StoreURL.parse(tls(tls_ca=shared("redis").ca))
    ((_, port),) = parts.hosts
    await refused(with_parts(parts.secret, hosts=(("127.0.0.2", port),)), errors.AgentstoreError, "trusted|listens")


async def test_an_authority_that_is_not_there():
    await refused(tls(tls_ca="/not/there"), errors.ConfigurationError, "a file is not there")


async def test_plain_text_to_a_tls_port():
    await refused(with_parts(tls(), scheme="redis"), errors.UnavailableError, "TLS")


async def test_tls_to_a_plain_port(url):
    await refused(with_parts(url, scheme="rediss"), errors.AgentstoreError, "TLS")


# --- what is stored ---


async def test_a_key_of_another_kind_concerns_its_session_alone(backend, raw, url):
    prefix = StoreURL.parse(url).options["prefix"]
    await backend.append([turn("good"), turn("bad")])
    raw.delete(f"{prefix}:s:{{bad}}:head")
    raw.rpush(f"{prefix}:s:{{bad}}:head", "x")
    good, bad = await backend.heads([Head("good"), Head("bad")])
    assert good.message_count == 1
    assert isinstance(bad, errors.CorruptRecordError)
    good, bad = await backend.append([turn("good"), turn("bad")])
    assert good[0].seq == 2
    assert isinstance(bad, errors.AgentstoreError)


async def test_no_memory_left_is_told_and_nothing_is_stored(private_server):
    server = private_server("redis")
    backend = make(server.url)
    await backend.aopen()
    await backend.append([turn("s")])
    admin = node(StoreURL.parse(server.url).hosts[0][1])
    admin.config_set("maxmemory", 1)
    (outcome,) = await backend.append([turn("s", "more")])
    assert isinstance(outcome, errors.UnavailableError)
    assert "maxmemory" in str(outcome)
    ((kept,),) = await backend.read([Read("s")])
    assert kept.content == "hello"
    admin.config_set("maxmemory", 0)
    (stored,) = await backend.append([turn("s", "more")])
    assert stored[0].seq == 2
    admin.close()
    await backend.aclose()
