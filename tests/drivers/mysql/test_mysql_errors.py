"""What the errors of server, driver and network become; never with the password."""

import inspect
import ssl
import time
import traceback

import pytest
from mysql_kit import execute, make, turn, within, words
from pymysql import err
from pymysql.constants import CR, ER

from agentstore import errors
from agentstore.drivers.mysql.errors import AGAIN, BY_CODE, BY_TYPE, RAISED, READ_ONLY, translated
from agentstore.protocol import Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

PROMPT = 5.0  # seconds


def classes():
    return [kind for _, kind in inspect.getmembers(err, inspect.isclass) if issubclass(kind, err.MySQLError)]


@pytest.mark.parametrize("kind", [*classes(), OSError, ConnectionRefusedError, TimeoutError, ssl.SSLError])
def test_every_class_becomes_an_error_of_ours(kind):
    ours = translated(kind("what it says"), "mysql://h/d")
    assert isinstance(ours, errors.AgentstoreError)
    assert "mysql://h/d" in str(ours)
    assert "what it says" in str(ours)
    assert isinstance(kind("x"), RAISED)
    assert type(ours) is next(meaning for base, meaning in BY_TYPE.items() if issubclass(kind, base)).error


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_number_becomes_an_error_of_ours(code):
    ours = translated(err.OperationalError(code, "what it says"), "mysql://h/d")
    assert type(ours) is BY_CODE[code].error
    assert "what it says" in str(ours)
    assert ours.hint or BY_CODE[code].hint is None


def test_the_numbers_that_matter_are_what_they_seem():
    meanings = {
        ER.ACCESS_DENIED_ERROR: errors.ConfigurationError,
        ER.DBACCESS_DENIED_ERROR: errors.ConfigurationError,
        ER.BAD_DB_ERROR: errors.ConfigurationError,
        ER.TABLEACCESS_DENIED_ERROR: errors.ConfigurationError,
        ER.CON_COUNT_ERROR: errors.UnavailableError,
        ER.SERVER_SHUTDOWN: errors.UnavailableError,
        ER.LOCK_WAIT_TIMEOUT: errors.UnavailableError,
        ER.OPTION_PREVENTS_STATEMENT: errors.UnavailableError,
        ER.NET_PACKET_TOO_LARGE: errors.MessageTooLargeError,
        ER.NO_SUCH_TABLE: errors.CorruptRecordError,
        ER.DUP_ENTRY: errors.CorruptRecordError,
        CR.CR_CONN_HOST_ERROR: errors.UnavailableError,
        CR.CR_SERVER_LOST: errors.UnavailableError,
    }
    assert {code: BY_CODE[code].error for code in meanings} == meanings
    assert {ER.LOCK_DEADLOCK, ER.CHECKREAD} <= AGAIN <= set(BY_CODE)
    assert set(BY_CODE) >= READ_ONLY


def changed(url, kind):
    host, port = StoreURL.parse(url).hosts[0]
    return {
        "password": lambda: within(url, password="wr0ng&secret"),
        "user": lambda: within(url, username="nobody", password="wr0ng&secret"),
        "database": lambda: within(url, path="/no_such_database"),
        "port": lambda: within(url, hosts=((host, 1),)),
        "host": lambda: within(url, hosts=(("no-such-host.invalid", port),)),
        "socket": lambda: within(url, hosts=(), options={"unix_socket": "/no/such/socket"}),
        "authority": lambda: within(url, options={"ssl-mode": "VERIFY_CA"}),
        "no file": lambda: within(url, options={"ssl-ca": "/no/such/file"}),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "error"),
    {
        "password": errors.ConfigurationError,
        "user": errors.ConfigurationError,
        "database": errors.ConfigurationError,
        "authority": errors.ConfigurationError,
        "no file": errors.ConfigurationError,
        "port": errors.UnavailableError,
        "host": errors.UnavailableError,
        "socket": errors.UnavailableError,
    }.items(),
)
async def test_what_cannot_be_opened(url, kind, error):
    wrong = changed(url, kind)
    backend = make(wrong)
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(error) as caught:
            await backend.aopen()
    assert time.monotonic() - start < 2 * PROMPT
    assert type(caught.value) is error
    assert caught.value.hint
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    password = StoreURL.parse(wrong).password
    assert caught.value.__cause__ is not None
    for secret in (password, StoreURL.parse(url).password):
        assert secret not in told
        assert secret not in repr(vars(backend._settings) if hasattr(backend._settings, "__dict__") else "")
    await backend.aclose()


async def test_a_user_without_rights(url, backend):
    await backend.append([turn("s")])
    name = StoreURL.parse(url).path[1:]
    execute(url, f"CREATE USER {name[:30]}@'%' IDENTIFIED BY 'p'", f"GRANT SELECT ON {name}.* TO {name[:30]}@'%'")
    reader = make(within(url, username=name[:30], password="p"))
    await reader.aopen()
    assert words((await reader.read([Read("s")]))[0]) == ["hello"]
    with pytest.raises(errors.ConfigurationError, match="GRANT"):
        await reader.append([turn("s")])
    with pytest.raises(errors.ConfigurationError, match="GRANT"):
        await reader.write_items([SetItems("n", {"k": 1})])
    await reader.aclose()
    execute(url, f"DROP USER {name[:30]}@'%'")


async def test_missing_tables_are_told(url, backend):
    await backend.append([turn("s")])
    execute(url, "DROP TABLE agentstore_messages")
    with pytest.raises(errors.CorruptRecordError, match="agentstore_messages"):
        await backend.read([Read("s")])
    with pytest.raises(errors.CorruptRecordError, match="agentstore_messages"):
        await backend.append([turn("s")])


async def test_rows_that_contradict_each_other_fail_alone(url, backend):
    await backend.append([turn("good"), turn("bad"), turn("bad", "again")])
    execute(url, "UPDATE agentstore_sessions SET last_seq = 1 WHERE session_id = 'bad'")
    outcomes = await backend.append([turn("good"), turn("bad"), turn("new")])
    assert [words(outcome) for outcome in outcomes] == [["hello"], errors.CorruptRecordError, ["hello"]]
    assert isinstance(outcomes[1].__cause__, err.IntegrityError)
    assert await backend.delete("bad")
    outcomes = await backend.append([turn("bad", "anew")])
    assert [words(outcome) for outcome in outcomes] == [["anew"]]


@pytest.mark.parametrize("column", ["metadata = '{'", "expires_at = 9223372036854775807", "user_id = x'ff'"])
async def test_a_session_that_cannot_be_read_fails_alone(url, backend, column, unguessed):
    await backend.append([turn("good"), turn("bad")])
    execute(url, f"UPDATE agentstore_sessions SET {column} WHERE session_id = 'bad'")
    outcomes = await backend.append([turn("good"), turn("bad")])
    assert [words(outcome) for outcome in outcomes] == [["hello"], errors.CorruptRecordError]
    assert await backend.delete("bad")
    assert words((await backend.append([turn("bad", "anew")]))[0]) == ["anew"]


async def test_a_message_that_cannot_be_read_fails_alone(url, backend):
    await backend.append([turn("good"), turn("bad", id="known")])
    execute(url, "UPDATE agentstore_messages SET tool_calls = '[[1]]' WHERE session_id = 'bad'")
    assert [words(o) for o in await backend.read([Read("good"), Read("bad")])] == [
        ["hello"],
        errors.CorruptRecordError,
    ]
    outcomes = await backend.append([turn("good"), turn("bad", id="known")])
    assert [words(o) for o in outcomes] == [["hello"], errors.CorruptRecordError]


async def test_a_value_that_cannot_be_read_can_be_replaced(url, backend):
    await backend.write_items([SetItems("n", {"a": 1, "b": 1})])
    execute(url, "UPDATE agentstore_state SET value = '{', expires_at = 9223372036854775807 WHERE `key` = 'a'")
    assert await backend.write_items([SetItems("n", {"a": 2})]) == [2]
