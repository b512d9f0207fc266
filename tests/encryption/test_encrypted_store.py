"""What an encrypted store hides, refuses and keeps."""

import asyncio
import sqlite3
from contextlib import closing

import pytest

from agentstore import (
    CorruptRecordError,
    InvalidInputError,
    Message,
    MessageTooLargeError,
    ToolCall,
    UnavailableError,
    db,
)
from agentstore.checks import MAX_BYTES
from agentstore.drivers import registry
from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import AccessDeniedError, ConflictError
from agentstore.keyring import Keyring
from agentstore.layers import sums
from agentstore.layers.encryption import Encrypting
from agentstore.options import PoolOptions
from agentstore.protocol import Append, DeleteKeys, Expire, GetItems, Increment, Mark, Read, SetItems
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

KEY, OTHER = "0123456789abcdef-first", "0123456789abcdef-other"
SECRETS = [f"secret{number}" for number in range(14)]


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/store.db"


def change(url, sql, *values):
    """Do to the file what no program of ours would."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        return connection.execute(sql, values).rowcount


def rows(url, sql, *values):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(sql, values).fetchall()


def inner():
    return MemoryBackend(StoreURL.parse("memory:"), PoolOptions())


@pytest.mark.parametrize("scheme", ["sqlite", "json"])
async def test_no_word_of_it_is_in_the_files(scheme, tmp_path):
    words = iter(SECRETS)
    async with db(f"{scheme}:///{tmp_path}/store", encryption_key=KEY) as database:
        calls = [ToolCall(next(words), next(words), f'{{"a": "{next(words)}"}}')]
        spoken = Message(
            "assistant", next(words), tool_calls=calls, name=next(words), metadata={next(words): next(words)}
        )
        parts = Message("tool", [{"text": next(words)}], tool_call_id=next(words))
        await database.append("s", [spoken, parts, Message("user", "")], metadata={next(words): next(words)})
        await database.update_session("s", title=next(words))
        await database.state.set_many({"k": next(words), "b": next(words).encode()})
        assert await database.fork("s", "fork")
        assert await database.import_session({**await database.export_session("s")}) == "s"
        while_open = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    closed = b"".join(path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file())
    assert next(words, None) is None, "all were stored"
    for data in (while_open, closed):
        assert b"agentstore:1:" in data
        assert [word for word in SECRETS if word.encode() in data] == []
        assert b"tool_calls" not in data or scheme == "sqlite"
        for hidden in (b"text", b'"a"'):
            assert hidden not in data.replace(b"TEXT", b"") or scheme == "sqlite"


async def test_what_a_row_of_messages_shows(url):
    async with db(url, encryption_key=KEY) as database:
        message = Message(
            "user", "hi", name="n", tool_call_id="c", metadata={"a": 1}, tool_calls=[ToolCall("", "", "")]
        )
        (stored,) = await database.append("s", message, user_id="u", agent="a")
        assert await database.messages("s") == [stored]
    ((role, content, calls, call_id, name, metadata),) = rows(
        url, "SELECT role, content, tool_calls, tool_call_id, name, metadata FROM agentstore_messages"
    )
    assert (role, calls, call_id, name, metadata) == ("user", None, None, None, None)
    assert content.startswith(f"agentstore:1:{Keyring(KEY).ids[0].hex()}:")
    assert rows(url, "SELECT user_id, agent FROM agentstore_sessions") == [("u", "a")]


async def _filled(url):
    async with db(url, encryption_key=KEY) as database:
        for session_id in ("s", "t"):
            messages = [Message("user", f"{session_id}{n}", id=f"m{n}") for n in range(3)]
            await database.append(session_id, messages, metadata={"a": session_id, "b": None})
            await database.update_session(session_id, title=session_id)
            await database.state.scope(session_id).set_many({"k": session_id, "l": 1})


MOVES = {
    "a message of another session": (
        "UPDATE agentstore_messages AS m SET content = (SELECT content FROM agentstore_messages AS o"
        " WHERE o.session_id = 't' AND o.seq = m.seq) WHERE session_id = 's' AND seq = 1"
    ),
    "another message": (
        "UPDATE agentstore_messages SET content = (SELECT content FROM agentstore_messages"
        " WHERE session_id = 's' AND seq = 2) WHERE session_id = 's' AND seq = 1"
    ),
    "another role": "UPDATE agentstore_messages SET role = 'system' WHERE session_id = 's' AND seq = 1",
    "another run": "UPDATE agentstore_messages SET run_id = 'r' WHERE session_id = 's' AND seq = 1",
    "another id": "UPDATE agentstore_messages SET id = 'x' WHERE session_id = 's' AND seq = 1",
    "a name beside it": "UPDATE agentstore_messages SET name = 'root' WHERE session_id = 's' AND seq = 1",
    "cut short": "UPDATE agentstore_messages SET content = substr(content, 1, 40) WHERE session_id = 's' AND seq = 1",
    "cut to its head": (
        "UPDATE agentstore_messages SET content = substr(content, 1, 20) WHERE session_id = 's' AND seq = 1"
    ),
    "no base64": "UPDATE agentstore_messages SET content = content || '!' WHERE session_id = 's' AND seq = 1",
    "another version": (
        "UPDATE agentstore_messages SET content = replace(content, ':1:', ':2:') WHERE session_id = 's' AND seq = 1"
    ),
    "a flipped bit": (
        "UPDATE agentstore_messages SET content = substr(content, 1, 40)"
        " || CASE substr(content, 41, 1) WHEN 'A' THEN 'B' ELSE 'A' END || substr(content, 42)"
        " WHERE session_id = 's' AND seq = 1"
    ),
    "plain text": "UPDATE agentstore_messages SET content = 'obey' WHERE session_id = 's' AND seq = 1",
}


@pytest.mark.parametrize("sql", MOVES.values(), ids=MOVES)
async def test_a_message_that_was_tampered_with_is_no_message(sql, url):
    await _filled(url)
    assert change(url, sql) == 1
    async with db(url, encryption_key=KEY) as database:
        both = await asyncio.gather(database.messages("s"), database.messages("t"), return_exceptions=True)
        assert isinstance(both[0], CorruptRecordError)
        assert [message.content for message in both[1]] == ["t0", "t1", "t2"]
        assert len(await database.messages("s", after=1)) == 2
        with pytest.raises(CorruptRecordError, match=r"message '[mx].*' of session 's'"):
            await database.pop("s", 3)
        (head,) = [await database.session("s")]
        assert head.message_count == 3, "what cannot be read is not removed"
        with pytest.raises(CorruptRecordError):
            await database.export_session("s")
        assert await database.pop("s", 1)
        assert await database.delete_session("s")


STATE_MOVES = {
    "another namespace": (
        "UPDATE agentstore_state AS s SET value = (SELECT value FROM agentstore_state AS o"
        " WHERE o.namespace = 't' AND o.key = s.key) WHERE namespace = 's' AND key = 'k'"
    ),
    "another key": (
        "UPDATE agentstore_state SET value = (SELECT value FROM agentstore_state"
        " WHERE namespace = 's' AND key = 'l') WHERE namespace = 's' AND key = 'k'"
    ),
    "plain": "UPDATE agentstore_state SET value = '1' WHERE namespace = 's' AND key = 'k'",
    "cut short": (
        "UPDATE agentstore_state SET value = substr(value, 1, 50) || '\"' WHERE namespace = 's' AND key = 'k'"
    ),
}


@pytest.mark.parametrize("sql", STATE_MOVES.values(), ids=STATE_MOVES)
async def test_a_value_that_was_tampered_with_is_no_value(sql, url):
    await _filled(url)
    assert change(url, sql) == 1
    async with db(url, encryption_key=KEY) as database:
        scope = database.state.scope("s")
        outcomes = await asyncio.gather(
            scope.get("k"), scope.get("l"), scope.increment("k"), scope.increment("l"), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [CorruptRecordError, int, CorruptRecordError, int]
        with pytest.raises(CorruptRecordError, match="key 'k'"):
            await scope.scan()
        await scope.set("k", "anew")
        assert await scope.get("k") == "anew"


SESSION_MOVES = {
    "title of another": (
        "UPDATE agentstore_sessions SET title ="
        " (SELECT title FROM agentstore_sessions WHERE session_id = 't') WHERE session_id = 's'"
    ),
    "plain title": "UPDATE agentstore_sessions SET title = 'obey' WHERE session_id = 's'",
    "metadata of another": (
        "UPDATE agentstore_sessions SET metadata ="
        " (SELECT metadata FROM agentstore_sessions WHERE session_id = 't') WHERE session_id = 's'"
    ),
    "plain metadata": "UPDATE agentstore_sessions SET metadata = '{\"a\":1}' WHERE session_id = 's'",
    "plain null": "UPDATE agentstore_sessions SET metadata = '{\"a\":null}' WHERE session_id = 's'",
    "other tokens": (
        "UPDATE agentstore_sessions SET metadata = replace(metadata, '\"agentstore:', '\"agentstore:A')"
        " WHERE session_id = 's'"
    ),
}


@pytest.mark.parametrize("sql", SESSION_MOVES.values(), ids=SESSION_MOVES)
async def test_a_session_that_was_tampered_with_is_no_session(sql, url):
    await _filled(url)
    assert change(url, sql) == 1
    async with db(url, encryption_key=KEY) as database:
        one, other = await asyncio.gather(database.session("s"), database.session("t"), return_exceptions=True)
        assert isinstance(one, CorruptRecordError)
        assert (other.title, other.metadata) == ("t", {"a": "t", "b": None})
        with pytest.raises(CorruptRecordError, match="session 's'"):
            await database.sessions()
        assert [session.id for session in (await database.sessions(limit=1)).items] == ["t"]


async def test_another_key_opens_nothing(url):
    await _filled(url)
    async with db(url, encryption_key=OTHER) as database:
        told = f"another key, that of id {Keyring(KEY).ids[0].hex()}; here is {Keyring(OTHER).ids[0].hex()}"
        for call in (
            database.messages("s"),
            database.session("s"),
            database.sessions(),
            database.pop("s"),
            database.export_session("s"),
            database.state.scope("s").get("k"),
            database.state.scope("s").scan(),
            database.state.scope("s").increment("l"),
            database.append("s", Message("user", "again", id="m0")),
        ):
            with pytest.raises(CorruptRecordError) as caught:
                await call
            assert told in str(caught.value)
            assert KEY not in str(caught.value)
    async with db(url, encryption_key=[OTHER, KEY]) as database:
        assert [message.content for message in await database.messages("s")] == ["s0", "s1", "s2"]
        assert (await database.session("s")).metadata == {"a": "s", "b": None}


async def test_a_plain_store_is_not_taken_for_an_encrypted_one(url):
    async with db(url) as database:
        await database.append("s", Message("user", "plain"), metadata={"a": 1})
        await database.state.set("k", 1)
    async with db(url, encryption_key=KEY) as database:
        for call in (database.messages("s"), database.session("s"), database.state.get("k"), database.pop("s")):
            with pytest.raises(CorruptRecordError) as caught:
                await call
            assert "is not encrypted" in str(caught.value)
            assert "agentstore rekey" in str(caught.value)


async def test_a_foreign_user_is_told_so_and_not_of_keys(url):
    async with db(url, encryption_key=KEY) as database:
        await database.append("s", Message("user", "hi"), user_id="ann")
        with pytest.raises(AccessDeniedError):
            await database.pop("s", user_id="bob")
        with pytest.raises(ConflictError):
            await database.append("s", Message("user", "hi"), expected_seq=7)


# --- rotation ---


async def test_the_last_write_wins_whatever_the_order_of_the_keys(url):
    async with db(url, encryption_key=[KEY, OTHER]) as one, db(url, encryption_key=[OTHER, KEY]) as two:
        for number in range(6):
            writer, reader = (one, two) if number % 2 else (two, one)
            await writer.append("s", Message("user", "hi"), metadata={"k": number, "own": {"n": [number]}})
            for database in (writer, reader):
                assert (await database.session("s")).metadata == {"k": number, "own": {"n": [number]}}
        await two.append("s", [], metadata={"k": None})
        assert (await one.session("s")).metadata == {"k": None, "own": {"n": [5]}}
        await one.update_session("s", metadata={"k": "whole"})
        assert (await two.session("s")).metadata == {"k": "whole"}
        await one.state.set("k", 1)
        assert await two.state.increment("k") == 2
        assert await one.state.increment("k") == 3
        assert [message.content for message in await one.messages("s")] == ["hi"] * 6
    ((metadata,),) = rows(url, "SELECT metadata FROM agentstore_sessions")
    assert metadata.count("agentstore:1:") == 1, "and no nulls after the whole was replaced"
    assert "null" not in metadata


async def test_racing_merges_under_both_orders_lose_no_key(url):
    async with db(url, encryption_key=[KEY, OTHER]) as one, db(url, encryption_key=[OTHER, KEY]) as two:
        await asyncio.gather(
            *((one, two)[n % 2].append("s", Message("user", "x"), metadata={f"k{n % 10}": n}) for n in range(60))
        )
        first, second = (await one.session("s")).metadata, (await two.session("s")).metadata
    assert first == second
    assert set(first) == {f"k{n}" for n in range(10)}
    assert all(value % 10 == int(name[1:]) for name, value in first.items())


# --- sizes ---

FULL = {
    "one byte a character": "x" * MAX_BYTES,
    "quotes": '"' * MAX_BYTES,
    "NULs": "\x00" * MAX_BYTES,
    "surrogates": "\ud83d" * (MAX_BYTES // 3),
    "quotes and emoji": '"😀' * (MAX_BYTES // 5),
}


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("scheme", ["sqlite", "memory"])
async def test_eight_mebibytes(kind, scheme, tmp_path):
    text = FULL[kind]
    short = text[: len(text) - 16]  # of one byte each, or more
    url = f"sqlite:///{tmp_path}/store.db" if scheme == "sqlite" else "memory:"
    async with db(url, encryption_key=[KEY, OTHER]) as database:
        (stored,) = await database.append("s", Message("user", text))
        parts = Message("user", [short], metadata={"a": 1} if short == "x" else {})
        await database.append("parts", parts)
        await database.append("metadata", [], metadata={"k": short})
        await database.append("metadata", [], metadata={"k": short})
        await database.state.set("k", text)
        await database.update_session("s", title=text, metadata={"k": short})
        assert (await database.messages("s"))[0].content == stored.content == text
        assert (await database.messages("parts"))[0].content == [short]
        assert (await database.session("metadata")).metadata == {"k": short}
        assert await database.state.get("k") == text
        head = await database.session("s")
        assert (head.title, head.metadata) == (text, {"k": short})
        await database.fork("s", "fork")
        assert await database.pop("fork") == [stored]
        if kind == "one byte a character":
            with pytest.raises(MessageTooLargeError):
                await database.append("metadata", [], metadata={"more": "x" * (MAX_BYTES // 2)})
    if scheme == "sqlite":
        sizes = rows(url, "SELECT length(CAST(content AS BLOB)) FROM agentstore_messages")
        sizes += rows(url, "SELECT length(CAST(metadata AS BLOB)) FROM agentstore_sessions WHERE metadata IS NOT NULL")
        sizes += rows(url, "SELECT length(CAST(value AS BLOB)) FROM agentstore_state")
        assert max(sizes)[0] < 16 * 1000 * 1000, "what MongoDB and MySQL take"


async def test_metadata_of_too_many_names_is_refused_and_nothing_stored():
    async with db("memory:", encryption_key=KEY) as database:
        await database.append("s", Message("user", "hi"), metadata={f"{n}": n for n in range(10_000)})
        many = {f"{n}": n for n in range(130_000)}
        for call in (
            database.append("s", Message("user", "more"), metadata=many),
            database.update_session("s", metadata=many),
        ):
            with pytest.raises(MessageTooLargeError, match="encrypted"):
                await call
        assert len((await database.session("s")).metadata) == 10_000
        assert len(await database.messages("s")) == 1


# --- sums ---


async def test_increments_in_order_with_all_else_in_a_batch():
    plain, sealed = inner(), Encrypting(inner(), Keyring(KEY))
    batch = [
        Increment("n", "a", 2),
        SetItems("n", {"a": 10}),
        Increment("n", "a"),
        Increment("n", "a"),
        SetItems("n", {"text": "t", "big": 10**4290}),
        Increment("n", "text"),
        Increment("n", "big", 10**4299 * 9),
        Increment("n", "big", 10**4299 * 9),
        Increment("n", "big", 1),
        DeleteKeys("n", ("a",)),
        Increment("n", "a", -1),
        Expire("n", "a", None),
        SetItems("n", {"v": 1}, if_version=999),
        Increment("n", "v"),
        Increment("other", "a"),
        DeleteKeys("n", ("a", "text", "none")),
        Increment("n", "text"),
    ]
    keys = GetItems("n", ("a", "text", "big", "v"))
    for _ in range(2):
        for expected, found in zip(await plain.write_items(batch), await sealed.write_items(batch), strict=True):
            if isinstance(expected, Exception):
                assert type(found) is type(expected)
                if not isinstance(expected, ConflictError):  # which names a version
                    assert str(found) == str(expected)
            else:
                assert (type(found), found > 0 if expected > 0 else found) == (int, True if expected > 0 else expected)
        (values,), (opened,) = await plain.get_items([keys]), await sealed.get_items([keys])
        assert {key: item.value for key, item in opened.items()} == {key: item.value for key, item in values.items()}


async def test_marked_writes_keep_their_order_around_increments():
    store = Encrypting(inner(), Keyring(KEY))
    batch = [
        SetItems("n", {"a": 1}, mark=Mark("q", 1)),
        Increment("n", "a"),
        SetItems("n", {"a": 7}, mark=Mark("q", 2)),
        SetItems("n", {"b": 8}, mark=Mark("q", 3)),
    ]
    assert all(isinstance(outcome, int) for outcome in await store.write_items(batch))
    (found,) = await store.get_items([GetItems("n", ("a", "b"))])
    assert {key: item.value for key, item in found.items()} == {"a": 7, "b": 8}


async def test_increments_keep_the_expiry_to_the_microsecond():
    async with db("memory:", encryption_key=KEY) as database:
        await database.state.set("k", 1, ttl=1000)
        (before,) = await database.state.scan()
        assert [await database.state.increment("k") for _ in range(3)] == [2, 3, 4]
        (after,) = await database.state.scan()
        assert after.expires_at == before.expires_at
        assert after.version > before.version


async def test_racing_increments_of_two_databases(url):
    async with db(url, encryption_key=[KEY, OTHER]) as one, db(url, encryption_key=[OTHER, KEY]) as two:
        sums_ = [call for _ in range(50) for call in (one.state.increment("k"), two.state.increment("k", 1))]
        assert sorted(await asyncio.gather(*sums_)) == list(range(1, 101))


class Contended(MemoryBackend):
    """Somebody else is always faster."""

    async def write_items(self, batch):
        for op in batch:
            if isinstance(op, SetItems) and op.if_version is not None:
                await super().write_items([SetItems(op.namespace, op.items)])
        return await super().write_items(batch)


async def test_an_increment_that_never_gets_through_says_so(monkeypatch):
    monkeypatch.setattr(sums, "_ATTEMPTS", 3)
    store = Encrypting(Contended(StoreURL.parse("memory:"), PoolOptions()), Keyring(KEY))
    outcomes = await store.write_items([SetItems("n", {"other": 1}), Increment("n", "k")])
    assert outcomes[0] == 1
    assert isinstance(outcomes[1], UnavailableError)
    assert "key 'k' was changed by others each of 3 times" in str(outcomes[1])


class Failing(MemoryBackend):
    """Conditions cannot be written."""

    async def write_items(self, batch):
        if any(isinstance(op, SetItems) and op.if_version is not None for op in batch):
            raise UnavailableError("the line is cut")
        return await super().write_items(batch)


async def test_what_was_stored_before_a_failure_stays_answered():
    store = Encrypting(Failing(StoreURL.parse("memory:"), PoolOptions()), Keyring(KEY))
    outcomes = await store.write_items([Increment("n", "k"), SetItems("n", {"a": 1}), SetItems("n", {"k": 1})])
    assert [type(outcome) for outcome in outcomes] == [UnavailableError, int, UnavailableError]
    with pytest.raises(UnavailableError):
        await store.write_items([Increment("n", "k")])


# --- the layer ---


class Slow(MemoryBackend):
    """Waits for a write that goes on when its caller is cancelled."""

    async def append(self, batch):
        from agentstore.concurrency import uncancelled  # noqa: PLC0415

        async def later():
            await asyncio.sleep(0.05)
            return await super(Slow, self).append(batch)

        return await uncancelled(asyncio.ensure_future(later()))


async def test_what_a_cancelled_append_did_is_told_in_plain_words():
    from agentstore.concurrency import outcome_despite  # noqa: PLC0415

    store = Encrypting(Slow(StoreURL.parse("memory:"), PoolOptions()), Keyring(KEY))
    message = Message("user", "hi")
    task = asyncio.ensure_future(store.append([Append("s", (message,))]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    ((stored,),) = outcome_despite(caught.value).result()
    assert (stored.content, stored.seq) == ("hi", 1)
    (found,) = await store.read([Read("s")])
    assert found == [stored]


async def test_a_record_too_deep_to_be_sealed_fails_alone(monkeypatch):
    store = Encrypting(inner(), Keyring(KEY))
    deep = []
    for _ in range(100_000):
        deep = [deep]
    outcomes = await store.append([Append("s", (Message("user", "one"),)), Append("s", (Message("user", deep),))])
    assert isinstance(outcomes[0], list)
    assert isinstance(outcomes[1], InvalidInputError)
    outcomes = await store.write_items([SetItems("n", {"a": deep}), SetItems("n", {"b": 1})])
    assert isinstance(outcomes[0], InvalidInputError)
    assert outcomes[1] == 1
    while deep:  # Python frees nested lists by recursion
        deep = deep.pop()


async def test_it_lacks_what_its_driver_lacks():
    class Lacking(MemoryBackend):
        lacks = {"if_version between processes": "no", "pop": "never"}  # noqa: RUF012

    lacks = Encrypting(Lacking(StoreURL.parse("memory:"), PoolOptions()), Keyring(KEY)).lacks
    assert lacks == {"if_version between processes": "no", "increment between processes": "no", "pop": "never"}


async def test_the_driver_that_doctor_asks_is_the_plain_one(url):
    async with db(url, encryption_key=KEY):
        pass
    backend = registry.load(StoreURL.parse(url), PoolOptions())
    assert not isinstance(backend, Encrypting)
