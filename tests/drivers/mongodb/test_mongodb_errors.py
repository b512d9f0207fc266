"""What goes wrong between us and the server, and what the caller is told."""

import asyncio
import traceback

import bson.datetime_ms
import pytest
from bson import errors as bson_errors
from mongodb_kit import HELLO, append, backend, is_hello, wire
from pymongo import common
from pymongo import errors as mongo
from pymongo.uri_parser import parse_uri

from agentstore.drivers import registry
from agentstore.drivers.mongodb import errors
from agentstore.errors import (
    AgentstoreError,
    ConfigurationError,
    CorruptRecordError,
    MessageTooLargeError,
    PoolTimeoutError,
    UnavailableError,
)
from agentstore.options import PoolOptions
from agentstore.protocol import GetItems, Head, Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t"
BRIEF = PoolOptions(connect_timeout=2.0)


def subclasses(kind):
    return [kind, *(found for child in kind.__subclasses__() for found in subclasses(child))]


def made(kind):
    if issubclass(kind, mongo.BulkWriteError):
        return kind({"writeErrors": [{"index": 0, "code": 1, "errmsg": "odd"}], "writeConcernErrors": []})
    if issubclass(kind, mongo.EncryptedCollectionError):
        return kind(ValueError("odd"), {})
    if issubclass(kind, mongo.EncryptionError):
        return kind(ValueError("odd"))
    if issubclass(kind, mongo.ClientBulkWriteException):
        return kind({"error": None, "writeErrors": [], "writeConcernErrors": []}, verbose=False)
    return kind("odd")


@pytest.mark.parametrize("kind", [*subclasses(mongo.PyMongoError), *subclasses(bson_errors.BSONError)])
def test_each_of_the_driver_s_errors_means_something(kind):
    error = made(kind)
    assert isinstance(error, errors.RAISED)
    ours = errors.translated(error, "mongodb://host/x")
    assert isinstance(ours, AgentstoreError)
    assert str(ours).startswith("mongodb://host/x: ")
    expected = {
        "WaitQueueTimeoutError": PoolTimeoutError,
        "DocumentTooLarge": MessageTooLargeError,
        "InvalidBSON": CorruptRecordError,
        "ConfigurationError": ConfigurationError,
        "AutoReconnect": UnavailableError,
        "NetworkTimeout": UnavailableError,
        "BulkWriteError": UnavailableError,
    }
    assert type(ours) is expected.get(kind.__name__, type(ours))


@pytest.mark.parametrize("code", errors.BY_CODE)
def test_each_code_means_something_wherever_it_stands(code):
    meaning = errors.BY_CODE[code]
    bulk = mongo.BulkWriteError({"writeErrors": [{"index": 0, "code": code}], "writeConcernErrors": []})
    concern = mongo.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": code, "errmsg": "no"}]})
    for error in (mongo.OperationFailure("no", code), mongo.WriteError("no", code), bulk, concern):
        assert errors.meaning_of(error) is meaning


async def failure(url, pool=BRIEF):
    """What opening, or else an append, raises; and that no text of it holds a password."""
    store = backend(url, pool)

    async def use():
        async with asyncio.timeout(5):  # the caller is told soon
            await store.aopen()
            await store.append([append("x")])

    with pytest.raises(AgentstoreError) as caught:
        await use()
    await store.aclose()
    error = caught.value
    assert SECRET not in "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)
    assert error.__cause__ is not None
    return error


async def test_refused_and_unknown_hosts(anyio_backend):
    with wire(lambda _: HELLO) as closed:
        pass
    for host in (closed, "no-such-host.invalid"):
        error = await failure(f"mongodb://user:{SECRET}@{host}/x")
        assert type(error) is UnavailableError
        assert "no server that can be written to" in str(error)
        assert host.partition(":")[0] in str(error)


async def test_defaults_are_soon_enough():
    with wire(lambda _: HELLO) as closed:
        pass
    assert type(await failure(f"mongodb://{closed}/x", PoolOptions())) is UnavailableError


def refusing(code, name):
    def answer(command):
        if is_hello(command):
            return HELLO | {"saslSupportedMechs": ["SCRAM-SHA-256"]}
        return {"ok": 0, "errmsg": f"{name}.", "code": code, "codeName": name}

    return answer


async def test_a_wrong_password():
    with wire(refusing(18, "AuthenticationFailed")) as host:
        error = await failure(f"mongodb://user:{SECRET}@{host}/x")
    assert type(error) is ConfigurationError
    assert "refuses the user name or password" in str(error)
    assert "authSource" in str(error)


async def test_a_user_without_rights():
    with wire(refusing(13, "Unauthorized")) as host:
        error = await failure(f"mongodb://{host}/x")
    assert type(error) is ConfigurationError
    assert "readWrite" in str(error)


@pytest.mark.parametrize(("code", "name"), [(10107, "NotWritablePrimary"), (91, "ShutdownInProgress")])
async def test_a_primary_that_goes(code, name):
    with wire(refusing(code, name)) as host:
        error = await failure(f"mongodb://{host}/x", PoolOptions(connect_timeout=1.0, statement_timeout=1.0))
    assert type(error) is UnavailableError


async def test_a_write_that_no_majority_confirmed():
    def answer(command):
        if is_hello(command):
            return HELLO
        if "find" in command:
            return {"ok": 1, "cursor": {"id": 0, "ns": "x.y", "firstBatch": []}}
        failed = {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting for replication timed out"}
        return {"ok": 1, "n": 1, "writeConcernError": failed}

    with wire(answer) as host:
        store = backend(f"mongodb://{host}/x", BRIEF)
        with pytest.raises(UnavailableError, match="not enough members"):
            await store.append([append("x")])
        await store.aclose()


@pytest.mark.parametrize("moment", [None, "noon", bson.datetime_ms.DatetimeMS(2**60)])
async def test_a_server_that_tells_no_time_is_no_damaged_record(moment):
    hello = HELLO | {"localTime": moment}

    def answer(command):
        driver_s_own = "helloOk" in command or "client" in command or "topologyVersion" in command
        return HELLO if driver_s_own or not is_hello(command) else hello

    with wire(answer) as host:
        store = backend(f"mongodb://{host}/x", BRIEF)
        for call in (
            store.append([append("x")]),
            store.read([Read("s")]),
            store.heads([Head("s")]),
            store.get_items([GetItems("n", ("k",))]),
            store.write_items([SetItems("n", {"k": 1})]),
        ):
            with pytest.raises(UnavailableError, match="hello"):
                await call
        await store.aclose()


async def test_a_replica_set_of_another_name_and_a_host_that_is_down():
    with wire(lambda _: HELLO) as host:
        error = await failure(f"mongodb://{host}/x?replicaSet=other")
    assert type(error) is UnavailableError
    assert "replicaSet" in str(error)


async def test_tls_that_does_not_come_about(private_server, tmp_path):
    server = private_server("mongodb")
    folder = server.server.folder
    with wire(lambda _: HELLO, tls=folder) as host:
        for options in ("?tls=true", f"?tls=true&tlsCAFile={tmp_path}/none.pem"):
            with pytest.raises(ConfigurationError, match=r"TLS|tlsCAFile"):
                raise await _config(f"mongodb://{host}/x{options}")
        assert type(await failure(f"mongodb://{host}/x")) is UnavailableError, "the server just hangs up"
        store = backend(f"mongodb://{host}/x?tls=true&tlsCAFile={folder}/ca.pem", BRIEF)
        await store.ping()
        await store.aclose()
    error = await failure(f"{server.url}?tls=true")
    assert type(error) is ConfigurationError
    assert "TLS" in str(error)


async def _config(url):
    try:
        return await failure(url)
    except ConfigurationError as error:  # at construction
        return error


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mongodb:///x", "no host"),
        ("mongodb://h:99999/x", "port"),
        ("mongodb://h:0/x", "port"),
        ("mongodb+srv://h:27017/x", "without a port"),
        ("mongodb+srv://a,b/x", "one host"),
        ("mongodb://h/a.b", "no such name"),
        ("mongodb://h/a/b", "no such name"),
        ("mongodb://h/%24x", "no such name"),
        (f"mongodb://h/{'x' * 64}", "no such name"),
        ("mongodb://h/x?w=0", "w=0"),
        ("mongodb://h/x?readPreference=secondary", "readPreference"),
        ("mongodb://h/x?retryWrites=perhaps", "retryWrites"),
        ("mongodb://h/x?authMechanism=magic", "authMechanism"),
        ("mongodb://h/x?tls=1", "tls"),
    ],
)
def test_urls_that_cannot_be_right(url, says):
    with pytest.raises(ConfigurationError, match=says):
        backend(url)


@pytest.mark.filterwarnings("error")
def test_every_option_is_one_of_the_driver_s():
    url = StoreURL.parse("mongodb://u:p%40ss%2F@h:1,[::1]:2,%2Ftmp%2Fm.sock/x?w=2&journal=false")
    options = registry.find(url).options
    assert {name.lower() for name in options} <= set(common.VALIDATORS)
    found = parse_uri(url.secret)
    assert (found["username"], found["password"], found["database"]) == ("u", "p@ss/", "x")
    assert found["nodelist"] == [("h", 1), ("::1", 2), ("/tmp/m.sock", None)]
    assert dict(found["options"]) == {"w": 2, "journal": False}


async def test_a_server_that_hangs(private_server):
    server = private_server("mongodb")
    store = backend(server.url, PoolOptions(statement_timeout=0.5, connect_timeout=1.0))
    await store.aopen()
    await store.append([append("one")])
    server.pause()
    try:
        for call in (store.append([append("two")]), store.ping()):
            with pytest.raises(UnavailableError):
                await call
    finally:
        server.resume()
    async with asyncio.timeout(20):
        while True:
            try:
                await store.append([append("three")])
            except UnavailableError:
                continue
            break
    await store.aclose()
