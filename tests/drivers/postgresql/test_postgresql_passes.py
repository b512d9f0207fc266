"""A batch that takes several passes: what has been stored keeps its outcome, and is not stored again."""

import asyncio

import asyncpg
import pytest
from postgresql_kit import execute, make, turn, within, words

from agentstore.errors import CorruptRecordError, UnavailableError
from agentstore.protocol import GetItems, Increment, Read, SetItems

pytestmark = pytest.mark.anyio


@pytest.fixture
async def other(url, backend, unguessed):
    other = make(url)
    await other.aopen()
    await other.write_items([Increment(name, "k", 0) for name in ("calm", "cold", "hot")])
    await other.append([turn(name, "0") for name in ("calm", "cold", "hot")])
    yield other
    await other.aclose()


def overtake(monkeypatch, backend, other, then):
    """Another changes what is hot after the first load; `then` is awaited before each load that follows."""
    passes = []

    def wrap(load, change):
        async def overtaken(*given):
            passes.append(1)
            if len(passes) > 1:
                await then(len(passes))
            loaded = await load(*given)
            if len(passes) == 1:
                await change()
            return loaded

        return overtaken

    async def increment():
        await other.write_items([Increment("hot", "k")])

    async def append():
        await other.append([turn("hot", "theirs")])

    for owner, name, change in ((backend._state, "_load", increment), (backend._log._sessions, "load", append)):
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name), change))


async def count(backend, name="calm"):
    return (await backend.get_items([GetItems(name, ("k",))]))[0]["k"].value


def raising(error, passes):
    async def then(number):
        if number in passes:
            raise error

    return then


def increments(*names):
    return [Increment(name, "k") for name in names]


@pytest.mark.parametrize(
    "error", [asyncpg.SerializationError("x"), asyncpg.DeadlockDetectedError("x"), asyncpg.LockNotAvailableError("x")]
)
async def test_a_pass_that_another_transaction_undid(backend, other, monkeypatch, error):
    overtake(monkeypatch, backend, other, raising(error, {2}))
    outcomes = await backend.write_items(increments("calm", "hot"))
    assert outcomes == [1, 2]
    assert (await count(other), await count(other, "hot")) == (1, 2)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (asyncpg.QueryCanceledError("x"), UnavailableError),
        (TimeoutError(), UnavailableError),
        (ConnectionResetError(), UnavailableError),
        (CorruptRecordError("x"), CorruptRecordError),
        (asyncpg.RaiseError("x"), CorruptRecordError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
async def test_a_pass_that_fails(backend, other, monkeypatch, error, ours):
    overtake(monkeypatch, backend, other, raising(error, range(2, 9)))
    one, two = await backend.write_items(increments("calm", "hot"))
    assert (one, type(two)) == (1, ours)
    assert two is error or two.__cause__ is error
    assert await count(other) == 1
    await backend.ping()


@pytest.mark.parametrize("error", [asyncpg.QueryCanceledError("x"), asyncpg.RaiseError("x")])
async def test_a_pass_of_appends_that_fails(backend, other, monkeypatch, error):
    overtake(monkeypatch, backend, other, raising(error, range(2, 9)))
    outcomes = await backend.append([turn("calm", "1"), turn("hot", "1")])
    assert words(outcomes[0]) == ["1"]
    assert outcomes[1].__cause__ is error
    assert words((await other.read([Read("calm")]))[0]) == ["0", "1"]


async def test_what_others_keep_changing(backend, other, monkeypatch):
    load, load_sessions = backend._state._load, backend._log._sessions.load

    async def overtaken(*given):
        loaded = await load(*given)
        await other.write_items(increments("hot"))
        return loaded

    async def overtaken_sessions(*given):
        loaded = await load_sessions(*given)
        await other.append([turn("hot", "theirs")])
        return loaded

    monkeypatch.setattr(backend._state, "_load", overtaken)
    monkeypatch.setattr(backend._log._sessions, "load", overtaken_sessions)
    for part in (backend._state, backend._log):
        monkeypatch.setattr(part, "_patience", 0.1)
    outcomes = await backend.write_items(increments("calm", "hot"))
    assert (outcomes[0], type(outcomes[1])) == (1, UnavailableError)
    assert await count(other) == 1
    assert [words(outcome) for outcome in await backend.append([turn("calm", "1"), turn("hot", "1")])] == [
        ["1"],
        UnavailableError,
    ]


async def test_a_half_that_fails_after_the_other_was_stored(backend, other, url, monkeypatch):
    await other.write_items([SetItems("bad", {"k": 1})])
    execute(url, "UPDATE agentstore_state SET value = '{' WHERE namespace = 'bad'")
    load = backend._state._load

    async def failing(connection, names, whole):
        if {name for name, _ in names} == {"cold", "hot"}:
            raise asyncpg.QueryCanceledError("x")
        return await load(connection, names, whole)

    monkeypatch.setattr(backend._state, "_load", failing)
    outcomes = await backend.write_items(increments("calm", "bad", "cold", "hot"))
    assert outcomes[0] == await count(other) == 1
    assert [type(outcome) for outcome in outcomes[1:]] == [CorruptRecordError, UnavailableError, UnavailableError]


async def test_where_nothing_is_stored_the_batch_fails(backend, other, monkeypatch):
    async def failing(*_):
        raise asyncpg.QueryCanceledError("x")

    monkeypatch.setattr(backend._state, "_load", failing)
    with pytest.raises(UnavailableError):
        await backend.write_items(increments("calm", "hot"))


async def test_the_last_attempt_is_the_cause(url, monkeypatch):
    backend = make(url, statement_timeout=0.05)
    error = asyncpg.DeadlockDetectedError("x")

    async def failing(*_):
        raise error

    monkeypatch.setattr(backend._log, "clear", failing)
    with pytest.raises(UnavailableError) as caught:
        await backend.clear("s")
    assert caught.value.__cause__ is error
    await backend.aclose()


async def test_a_role_with_another_isolation(url, backend):
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_isolation = 'repeatable read'")
    other = make(within(url, options={"application_name": "other"}))
    await other.aopen()
    async with other._pools.connection() as proxy:
        assert await proxy.driver_connection.fetchval("SHOW transaction_isolation") == "read committed"
    (finding,) = [finding for finding in await other.examine() if finding.subject == "isolation"]
    assert (finding.level, finding.value) == ("ok", "read committed")
    await other.aclose()


async def test_another_isolation_behind_a_pooler(fresh):
    url = fresh("pgbouncer")
    name = url.rpartition("/")[2]
    execute(within(url, path="/postgres"), f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    backend = make(url)
    await backend.aopen()
    (finding,) = [finding for finding in await backend.examine() if finding.subject == "isolation"]
    assert (finding.level, finding.value) == ("warning", "serializable")
    names = [f"n{n}" for n in range(3)]
    done = await asyncio.gather(*(backend.write_items(increments(*names)) for _ in range(10)))
    stored = [outcome for outcomes in done for outcome in outcomes if isinstance(outcome, int)]
    assert sum([await count(backend, name) for name in names]) == len(stored) == 30
    await backend.aclose()
