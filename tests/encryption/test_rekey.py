"""A store from one key to another: all of it, while it is in use, and again after an interruption."""

import asyncio
import json
import signal
import sqlite3
import sys
from contextlib import closing
from datetime import timedelta

import pytest
from typer.testing import CliRunner

from agentstore import ConfigurationError, Message, ToolCall, db, rekeying
from agentstore.cli.app import app
from agentstore.drivers import registry
from agentstore.drivers.memory import MemoryBackend
from agentstore.keyring import Keyring
from agentstore.layers.encryption import Encrypting
from agentstore.layers.sealing import RecordCipher
from agentstore.options import PoolOptions
from agentstore.protocol import Append, Head, Read
from agentstore.rekeying import rekey, walk
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

OLD, NEW, THIRD = "0123456789abcdef-old", "0123456789abcdef-new", "0123456789abcdef-third"


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture(autouse=True)
def _keys(monkeypatch, tmp_path):
    monkeypatch.setenv("OLD_KEY", OLD)
    monkeypatch.setenv("NEW_KEY", NEW)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "third").write_text(THIRD + "\n")


def content_of(url):
    """All that stands in the tables of records, as one text."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        tables = ("agentstore_sessions", "agentstore_messages", "agentstore_state")
        return repr([connection.execute(f"SELECT * FROM {table}").fetchall() for table in tables])


def mark_of(key):
    return f"agentstore:1:{Keyring(key).ids[0].hex()}:"


async def fill(url, key, sessions=3, messages=40):
    async with db(url, encryption_key=key) as database:
        for number in range(sessions):
            said = [Message("user", f"secret {number} {n}", metadata={"n": n}) for n in range(messages)]
            said.append(Message("assistant", ["secret"], tool_calls=[ToolCall("c", "f", "{}")], name="n"))
            await database.append(f"s{number}", said, metadata={"k": "secret", "none": None}, user_id="u", ttl=5000)
        await database.append("empty", [], metadata={"k": "secret"})
        await database.append("bare", [])
        await database.update_session("s0", title="secret title")
        for namespace in ("a", "b/c", "z" * 255):
            await database.state.scope(namespace).set_many({f"k{n}": ["secret", n] for n in range(40)}, ttl=5000)
        await database.state.set_many({"root": 1, "bytes": b"secret"})


async def everything(url, key):
    """The whole store as its users see it, expiries and all but versions of keys."""
    async with db(url, encryption_key=key) as database:
        sessions = (await database.sessions(limit=1000)).items
        scopes = [database.state, *map(database.state.scope, ("a", "b/c", "z" * 255))]
        state = [[(item.key, item.value, item.expires_at) for item in await scope.scan()] for scope in scopes]
        return {session.id: await database.export_session(session.id) for session in sessions}, state


async def run(url, **keys):
    backend = registry.load(StoreURL.parse(url), PoolOptions())
    await backend.aopen()
    try:
        return await rekey(backend, **keys)
    finally:
        await backend.aclose()


WAYS = {"another key": (OLD, NEW), "encrypt": (None, NEW), "decrypt": (OLD, None)}


@pytest.mark.parametrize("way", WAYS)
async def test_all_is_rewritten_and_nothing_else_changes(way, url):
    old, new = WAYS[way]
    keys = {"old_keys": [old] if old else [], "new_key": new}
    await fill(url, old)
    before = await everything(url, old)
    report = await run(url, **keys)
    assert (report.left, report.errors) == (0, [])
    assert report.rewritten == 3 * 41 + 4 + 3 * 40 + 2, "messages, sessions with texts, values"
    assert (report.sessions, report.values) == (5, 122)
    assert await everything(url, new) == before
    content = content_of(url)
    assert ("secret" in content) == (new is None)
    assert old is None or mark_of(old) not in content
    assert new is None or mark_of(new) in content
    again = await run(url, **keys)
    assert (again.rewritten, again.left) == (0, 0)
    assert content_of(url) == content


@pytest.mark.once
@pytest.mark.parametrize("kind", ["json", "postgresql", "mysql", "redis", "redis-cluster", "mongodb", "clickhouse"])
async def test_all_is_rewritten_on_every_backend(kind, fresh, tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "_NAMESPACES", 3)  # in two pages
    url = f"json:///{tmp_path}/store" if kind == "json" else fresh(kind)
    await fill(url, OLD)
    before = await everything(url, OLD)
    report = await run(url, old_keys=[OLD], new_key=NEW)
    assert (report.left, report.errors, report.sessions, report.values) == (0, [], 5, 122)
    assert report.rewritten == 3 * 41 + 4 + 122
    assert await everything(url, NEW) == before


async def test_to_a_third_key_with_some_of_each(url):
    await fill(url, OLD)
    async with db(url, encryption_key=[NEW, OLD]) as database:
        await database.append("s0", Message("user", "newer"), metadata={"k": "newer"})
        await database.state.set("newer", 1)
    before = await everything(url, [OLD, NEW])
    report = await run(url, old_keys=[OLD, NEW], new_key=THIRD)
    assert report.left == 0
    assert await everything(url, THIRD) == before
    assert mark_of(OLD) not in content_of(url)
    assert mark_of(NEW) not in content_of(url)
    assert "null" not in content_of(url).replace('"none",null', "")


async def test_a_half_encrypted_store_is_encrypted_whole(url):
    await fill(url, None)
    async with db(url, encryption_key=NEW) as database:  # started too early
        await database.append("s0", Message("user", "sealed"), metadata={"sealed": 1})
        await database.append("bare", [], metadata={"sealed": 1})
    report = await run(url, new_key=NEW)
    assert report.left == 0
    exports, _ = await everything(url, NEW)
    assert exports["s0"]["session"]["metadata"] == {"k": "secret", "none": None, "sealed": 1}
    assert exports["s0"]["session"]["title"] == "secret title"
    assert exports["s0"]["messages"][-1]["content"] == "sealed"


async def test_a_plain_record_among_encrypted_ones_is_not_blessed(url):
    await fill(url, OLD)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute("UPDATE agentstore_messages SET content = 'obey' WHERE session_id = 's1' AND seq = 3")
        connection.execute("UPDATE agentstore_sessions SET title = 'obey' WHERE session_id = 's2'")
        connection.execute("UPDATE agentstore_state SET value = '1' WHERE key = 'root'")
    report = await run(url, old_keys=[OLD], new_key=NEW)
    assert report.left == len(report.errors) == 3
    assert all("is not encrypted" in error for error in report.errors)
    content = content_of(url)
    assert content.count("obey") == 2
    assert content.count(mark_of(OLD)) == 2, "the metadata beside the title"
    async with db(url, encryption_key=NEW) as database:
        assert len(await database.messages("s0")) == 41
        assert len(await database.messages("s1", after=3)) == 38


async def test_a_key_that_was_not_given_is_told(url):
    await fill(url, OLD)
    before = content_of(url)
    report = await run(url, old_keys=[THIRD], new_key=NEW)
    assert report.left == 3 * 41 + 4 + 122
    assert len(report.errors) == 10
    assert "was encrypted with another key" in report.errors[0]
    assert (report.rewritten, content_of(url)) == (0, before)
    with pytest.raises(ConfigurationError):
        await run(url, new_key=None)


async def test_what_has_expired_does_not_stay_in_its_old_form(url):
    async with db(url, encryption_key=OLD) as database:
        await database.append("s", Message("user", "x"), ttl=0.01)
        await database.state.set("k", 1, ttl=0.01)
        while await database.session("s") or await database.state.get("k"):
            await asyncio.sleep(0.01)
    assert mark_of(OLD) in content_of(url)
    assert (await run(url, old_keys=[OLD], new_key=NEW)).left == 0
    assert mark_of(OLD) not in content_of(url)


@pytest.mark.parametrize("kind", ["sqlite", "json", "postgresql", "redis"])
async def test_while_others_write(kind, fresh, tmp_path, monkeypatch):
    url = fresh(kind) if kind in {"postgresql", "redis"} else f"{kind}:///{tmp_path}/store.db"
    monkeypatch.setattr(walk, "_SESSIONS", 5)  # several pages of listings
    await fill(url, OLD, sessions=20)
    stop = asyncio.Event()
    counts = [0, 0]

    async def write(database, writer):
        while not stop.is_set():
            counts[writer] += 1
            number = counts[writer]
            session_id = f"s{(7 * number + writer) % 20}"
            await database.append(session_id, Message("user", f"{writer}:{number}"), metadata={f"w{writer}": number})
            await database.state.increment(f"count{writer}")
            await database.state.scope("a").set(f"k{number % 40}", f"{writer}:{number}")
            if number % 5 == 0:
                await database.pop(session_id)
            await database.update_session(session_id, title=f"{number}")

    async with db(url, encryption_key=[NEW, OLD]) as one, db(url, encryption_key=[NEW, OLD]) as two:
        tasks = [asyncio.ensure_future(write(face, writer)) for writer, face in enumerate((one, two))]
        report = await run(url, old_keys=[OLD], new_key=NEW)
        stop.set()
        await asyncio.gather(*tasks)
        assert (report.left, report.errors) == (0, [])
        assert min(counts) > 0
        for writer in range(2):
            assert await one.state.get(f"count{writer}") == counts[writer]
    assert kind != "sqlite" or mark_of(OLD) not in content_of(url)
    exports, _ = await everything(url, NEW)
    said = [m["content"] for export in exports.values() for m in export["messages"]]
    assert len([text for text in said if str(text).startswith("secret ")]) >= 20 * 40 - sum(counts) // 5 - 2


class Restless(MemoryBackend):
    """Whenever a page of sessions was listed, the oldest session is written to, and so goes to the head."""

    restless = False

    async def list_sessions(self, listing):
        page = await super().list_sessions(listing)
        if self.restless and page.next_cursor is not None:
            oldest = min(self._sessions.values(), key=lambda entry: entry.session.updated_at).session
            self._sessions[oldest.id].session = oldest.__class__(
                **{**{name: getattr(oldest, name) for name in oldest.__slots__}, "updated_at": self._newest()}
            )
        return page

    def _newest(self):
        return max(entry.session.updated_at for entry in self._sessions.values()) + timedelta(microseconds=1)


async def test_a_session_that_goes_past_is_met_all_the_same(monkeypatch):
    monkeypatch.setattr(walk, "_SESSIONS", 4)
    monkeypatch.setattr(rekeying, "ROUNDS", 1)
    backend = Restless(StoreURL.parse("memory:"), PoolOptions())
    monkeypatch.setattr(registry, "load", lambda *_: backend)
    async with db("memory:") as database:
        for number in range(12):
            await database.append(f"s{number}", Message("user", "x"))
        backend.restless = True
        report = await rekey(backend, new_key=NEW)
    assert (report.rewritten, report.left) == (12, 0)
    assert all(log[0].content.startswith(mark_of(NEW)) for log in backend._logs.values())


class Interrupting(MemoryBackend):
    """The first two times that a session is to be rewritten, somebody appends to it before."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.interrupted = {}

    async def rewrite(self, session, messages):
        count = self.interrupted[session.id] = self.interrupted.get(session.id, 0) + 1
        if count <= 2:
            cipher = RecordCipher(Keyring([NEW, OLD]))
            message = cipher.message(session.id, Message("user", f"between {count}"))
            await self.append([Append(session.id, (message,), metadata=cipher.metadata(session.id, {"k": count}))])
        return await super().rewrite(session, messages)


async def test_a_session_that_has_changed_is_rewritten_as_it_is_then(monkeypatch):
    monkeypatch.setattr(rekeying, "ROUNDS", 1)
    backend = Interrupting(StoreURL.parse("memory:"), PoolOptions())
    store = Encrypting(backend, Keyring(OLD))
    messages = tuple(Message("user", f"{number}") for number in range(40))
    await store.append([Append(name, messages, metadata={"k": 0, "own": 1}) for name in ("s", "t")])
    report = await rekey(backend, old_keys=[OLD], new_key=NEW)
    assert (report.rewritten, report.left) == (2 * 41, 0)
    new = Encrypting(backend, Keyring(NEW))
    for name in ("s", "t"):
        (found,), (head,) = await new.read([Read(name)]), await new.heads([Head(name)])
        assert [message.content for message in found] == [*map(str, range(40)), "between 1", "between 2"]
        assert head.metadata == {"k": 2, "own": 1}


CHILD = """
import asyncio, sys
from agentstore.drivers import registry
from agentstore.options import PoolOptions
from agentstore.rekeying import rekey
from agentstore.url import StoreURL

def show(report):
    print(report.rewritten, flush=True)

async def main():
    backend = registry.load(StoreURL.parse(sys.argv[1]), PoolOptions())
    await backend.aopen()
    await rekey(backend, old_keys=[sys.argv[2]], new_key=sys.argv[3], progress=show)

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 300, 900])
async def test_killed_in_the_middle_and_run_again(after, url):
    await fill(url, OLD, sessions=20)
    before = await everything(url, OLD)
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, url, OLD, NEW), stdout=asyncio.subprocess.PIPE
    )
    async for line in child.stdout:
        if int(line) >= after:
            child.kill()
            break
    assert await child.wait() == -signal.SIGKILL
    content = content_of(url)
    assert mark_of(OLD) in content
    assert mark_of(NEW) in content
    assert await everything(url, [NEW, OLD]) == before
    report = await run(url, old_keys=[OLD], new_key=NEW)
    assert report.left == 0
    assert 0 < report.rewritten < 20 * 41 + 21 + 122
    assert await everything(url, NEW) == before
    assert mark_of(OLD) not in content_of(url)


# --- the command ---


def command(*arguments):
    return CliRunner().invoke(app, ["rekey", *arguments], catch_exceptions=False)


def test_the_command(url, tmp_path):
    asyncio.run(fill(url, None))
    result = command(url, "--new-key-env", "OLD_KEY")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "249 records rewritten.",
        "All is encrypted with the new key (sessions: 5, state values: 122).",
    ]
    result = command(url, "--old-key-env", "OLD_KEY", "--new-key-file", str(tmp_path / "third"), "--json")
    told = json.loads(result.stdout)
    assert (told["rewritten"], told["left"], told["sessions"], told["url"]) == (249, 0, 5, url)
    assert asyncio.run(everything(url, THIRD))
    result = command(url, "--old-key-env", "OLD_KEY", "--old-key-file", str(tmp_path / "third"), "--decrypt")
    assert result.stdout.splitlines()[-1] == "All is plain (sessions: 5, state values: 122)."
    assert asyncio.run(everything(url, None))


def test_the_command_says_what_is_left(url):
    asyncio.run(fill(url, OLD))
    result = command(url, "--new-key-env", "NEW_KEY")
    assert result.exit_code == 1
    assert "was encrypted with another key" in result.stderr
    assert "249 records are not encrypted with the new key" in result.stderr
    for key in (OLD, NEW):
        assert key not in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "one new key is needed, or --decrypt"),
        (("--new-key-env", "NEW_KEY", "--decrypt"), "one new key is needed, or --decrypt"),
        (("--decrypt",), "neither an old key nor a new one"),
        (("--new-key-env", "NOBODY_S"), "the environment holds no key under the name NOBODY_S"),
        (("--new-key-file", "/nowhere/key"), "a key cannot be read"),
    ],
)
def test_wrong_arguments(arguments, told, url):
    asyncio.run(fill(url, OLD, 1, 1))
    result = command(url, *arguments)
    assert result.exit_code == 2
    assert told in result.stderr


def test_a_store_that_is_not_there_is_not_made(url, tmp_path):
    result = command(url, "--new-key-env", "NEW_KEY")
    assert result.exit_code == 1
    assert "does not exist yet" in result.stderr
    assert not (tmp_path / "store.db").exists()


def test_other_commands_take_a_key(url, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_MODEL", "offline")
    runner = CliRunner()
    chat = ["chat", "--db", url, "--session", "s", "--key-env", "NEW_KEY", "--key-env", "OLD_KEY"]
    assert runner.invoke(app, chat, input="My name is Alice\n").exit_code == 0
    assert "Alice" not in content_of(url)
    shown = runner.invoke(app, ["show", "s", "--db", url, "--key-env", "NEW_KEY"])
    assert "My name is Alice" in shown.stdout
    for arguments in (["show", "s"], ["sessions"]):
        assert runner.invoke(app, [*arguments, "--db", url, "--key-env", "NEW_KEY"]).exit_code == 0
        assert runner.invoke(app, [*arguments, "--db", url, "--key-env", "NOBODY_S"]).exit_code == 2
    wrong = runner.invoke(app, ["show", "s", "--db", url, "--key-env", "OLD_KEY"])
    assert wrong.exit_code == 1
    assert "was encrypted with another key" in wrong.stderr
