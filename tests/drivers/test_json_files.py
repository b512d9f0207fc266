"""What is peculiar to JSON files. What every backend must do is in the contract suite."""

import asyncio
import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
import textwrap
import unicodedata
from datetime import UTC, datetime, timedelta
from pathlib import Path

import filelock
import pytest

from agentstore.drivers.json import JSONBackend, failures, files, items, lines, names
from agentstore.errors import (
    AgentstoreError,
    ClosedError,
    ConfigurationError,
    CorruptRecordError,
    SchemaError,
    UnavailableError,
)
from agentstore.options import PoolOptions
from agentstore.protocol import Append, DeleteKeys, GetItems, Head, Increment, Listing, Read, SetItems
from agentstore.records import Message, Session
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)


def backend(folder, **options):
    return JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions(**options))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def store(folder):
    found = backend(folder)
    yield found
    await found.aclose()


async def add(store, session_id, *texts, **options):
    [outcome] = await store.append(
        [Append(session_id, tuple(Message("user", text, id=f"id-{text}"[:255]) for text in texts), **options)]
    )
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return outcome


async def texts(store, session_id, **options):
    [outcome] = await store.read([Read(session_id, **options)])
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return [message.content for message in outcome]


def log_of(folder, session_id="s"):
    return folder / "sessions" / names.file_name(session_id)


def remove_index(folder):
    for path in folder.glob("index.db*"):
        path.unlink()


@pytest.fixture
def run():
    """Starts an interpreter that runs some code; none outlives the test."""
    with contextlib.ExitStack() as ended:

        def start(code, *arguments, flags=()):
            process = subprocess.Popen(
                [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(code), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            ended.enter_context(process)
            ended.callback(process.kill)
            return process

        yield start


# --- names and lines --------------------------------------------------------------------------------------------

ODD_IDS = (
    "A", "a", "a ", "a/b", "a_b", "a b", "a-b", "../x", "..", ".", "con", "NUL", "\N{GRINNING FACE}" * 255, "x" * 255,
    "\u00e9", "e\u0301", "\n", "root", "", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "*", "~", "c:\\x",
)  # fmt: skip


def test_file_names_never_meet_and_stay_inside():
    found = [unicodedata.normalize("NFC", names.file_name(odd)).casefold() for odd in ODD_IDS]
    assert len(set(found)) == len(ODD_IDS)
    for name in found:
        assert name == os.path.basename(name)  # noqa: PTH119  the string is what counts
        assert name.isascii()
        assert len(name) < 100
    assert names.file_name("Chat with Ann/7").startswith("chat-with-ann-7-")


async def test_odd_ids_are_different_sessions(store, folder):
    ids = [odd for odd in ODD_IDS if odd]
    await store.append([Append(odd, (Message("user", odd),)) for odd in ids])
    assert [await texts(store, odd) for odd in ids] == [[odd] for odd in ids]
    inside = {path.parent.name for path in folder.rglob("*") if path.is_file()}
    assert inside <= {"store", "sessions", "state"}


TEXTS = (
    "plain", "\0", "\x1a", "\x1a0041", "\ud83d", "\ud83d\ude00", "\ude00\ud83d", "\\u001ad83d", "\\\x1a", "\\\\\x1a",
    "\u2028\r\n", '"\\', "\x85", "\N{GRINNING FACE}",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_is_one_line_of_strict_json(text):
    line = lines.encode({text: [text, text + text]})
    assert line.count(b"\n") == 1
    json.loads(line.decode())  # strict: bare control characters are refused
    assert lines.decode(line) == {text: [text, text + text]}


async def test_a_person_can_read_the_log(store, folder):
    await add(store, "s", "Grüße", "😀", user_id="ann", metadata={"k": 1})
    await store.pop("s", 1)
    found = [json.loads(line) for line in log_of(folder).read_text("utf-8").splitlines()]
    assert found[0]["session"]["id"] == "s"
    assert found[0]["session"]["user_id"] == "ann"
    assert [line["content"] for line in found if "role" in line] == ["Grüße", "😀"]
    assert [line["pop"] for line in found if "pop" in line] == [{"from": 2}]
    assert found[-1]["last_seq"] == 3
    assert found[-1]["message_count"] == 1
    assert "Grüße" in log_of(folder).read_text("utf-8")


async def test_bytes_of_the_state_are_readable(store, folder):
    await store.write_items([SetItems("n", {"b": b"\x00\xff", "j": {"b": 1}})])
    text = (folder / "state" / names.file_name("n")).read_text()
    assert '"bytes":"AP8="' in text
    assert '"value":{"b":1}' in text


async def test_deleted_and_cleared_text_is_gone_from_the_disk(store, folder):
    await add(store, "s", "secret-one")
    await store.clear("s")
    assert "secret" not in log_of(folder).read_text()
    await add(store, "s", "secret-two")
    assert await store.delete("s")
    assert "secret" not in log_of(folder).read_text()
    remove_index(folder)
    [message] = await add(store, "s", "new")
    assert message.seq == 4


# --- ends that were torn ----------------------------------------------------------------------------------------


async def test_a_torn_end_is_cut_off_at_every_byte(folder, store):
    await add(store, "s", "one", "two")
    before = log_of(folder).read_bytes()
    await add(store, "s", "three", "four")
    after = log_of(folder).read_bytes()
    await store.aclose()
    for end in range(len(before), len(after)):
        log_of(folder).write_bytes(after[:end])
        if end % 3 == 0:
            remove_index(folder)
        again = backend(folder)
        assert await texts(again, "s") == ["one", "two"], end
        if end % 10 in (0, 1):
            assert [m.seq for m in await add(again, "s", "three", "five")] == [3, 4]
            assert await texts(again, "s") == ["one", "two", "three", "five"], end
        await again.aclose()


async def test_a_torn_first_group_is_no_session(folder, store):
    await add(store, "s", "one")
    whole = log_of(folder).read_bytes()
    await store.aclose()
    for end in (1, len(whole) // 2, len(whole) - 1):
        log_of(folder).write_bytes(whole[:end])
        again = backend(folder)
        assert await again.heads([Head("s")]) == [None]
        assert (await again.list_sessions(Listing())).items == ()
        assert [m.seq for m in await add(again, "s", "one")] == [1]
        await again.aclose()


async def test_a_torn_write_of_a_process_that_died_meanwhile(folder, store):
    await add(store, "s", "one")
    with log_of(folder).open("ab") as file:
        file.write(lines.encode(lines.from_message(Message("user", "never committed", seq=2))) + b'{"com')
    assert await texts(store, "s") == ["one"]
    await add(store, "s", "two")
    assert await texts(store, "s") == ["one", "two"]
    assert b"never" not in log_of(folder).read_bytes()


async def test_zeros_that_a_power_cut_leaves_at_the_end_are_cut_off(folder, store):
    await add(store, "s", "one")
    size = log_of(folder).stat().st_size
    await add(store, "s", "two", "three")
    data = bytearray(log_of(folder).read_bytes())
    data[size + 5 : size + 60] = bytes(55)
    await store.aclose()
    log_of(folder).write_bytes(data)
    again = backend(folder)
    assert await texts(again, "s") == ["one"]
    await add(again, "s", "four")
    assert await texts(again, "s") == ["one", "four"]
    await again.aclose()


async def test_a_line_in_the_middle_that_is_no_json_is_reported_and_nothing_else_lost(folder, store):
    await add(store, "s", "one")
    await add(store, "s", "two")
    await add(store, "other", "fine")
    await store.aclose()
    whole = log_of(folder).read_bytes().split(b"\n")
    whole[1] = b'{"role": oops'
    log_of(folder).write_bytes(b"\n".join(whole))
    damaged = log_of(folder).read_bytes()
    again = backend(folder)
    with pytest.raises(CorruptRecordError, match=rf"line 2 of .*{log_of(folder).name}.*backup"):
        await texts(again, "s")
    failed, fine = await again.append([Append("s", (Message("user", "x"),)), Append("other", (Message("user", "y"),))])
    assert isinstance(failed, CorruptRecordError)
    assert fine[0].seq == 2
    assert log_of(folder).read_bytes() == damaged
    whole[1] = whole[1].replace(b'{"role": oops', lines.encode(lines.from_message(Message("user", "1", seq=1)))[:-1])
    log_of(folder).write_bytes(b"\n".join(whole))
    assert await texts(again, "s") == ["1", "two"]
    await again.aclose()


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"what":1}', b'{"role":"user"}', b'{"commit":7}'])
async def test_a_line_that_is_none_of_ours_is_reported(folder, store, line):
    await add(store, "s", "one")
    with log_of(folder).open("ab") as file:
        file.write(line + b'\n{"commit":1}\n')
    with pytest.raises(CorruptRecordError, match=r"line 4 of"):
        await texts(store, "s")
    with pytest.raises(CorruptRecordError):
        await add(store, "s", "two")


async def test_a_line_edited_in_place_is_found_when_read(folder, store):
    await add(store, "s", "one", "two")
    data = log_of(folder).read_bytes()
    with log_of(folder).open("r+b") as file:
        file.write(data.replace(b'"seq":2', b'"seq" 2'))
    with pytest.raises(CorruptRecordError, match="line 3 of"):
        await texts(store, "s")
    with log_of(folder).open("r+b") as file:
        file.write(data.replace(b'"two"', b'"TWO"'))
    assert await texts(store, "s") == ["one", "TWO"]


async def test_a_log_under_a_wrong_name_is_reported(folder, store, caplog):
    await add(store, "s", "one")
    await store.aclose()
    log_of(folder).rename(log_of(folder, "t"))
    again = backend(folder)
    with pytest.raises(CorruptRecordError, match="belongs to 's'"):
        await texts(again, "t")
    assert await texts(again, "s") == []
    assert "is left out" in caplog.text
    await again.aclose()


# --- the index --------------------------------------------------------------------------------------------------


async def fill(store):
    await add(store, "s", "one", "two", user_id="ann")
    await store.pop("s", 1)
    await add(store, "s", "three", metadata={"a": 1})
    await add(store, "gone", "x")
    await store.delete("gone")
    await store.write_items([SetItems("n", {"k": 1, "j": "two"}), Increment("n", "k"), DeleteKeys("n", ("j",))])


async def everything(store):
    return (
        await store.read([Read("s"), Read("gone")]),
        await store.list_sessions(Listing()),
        await store.get_items([GetItems("n", ("k", "j"))]),
    )


@pytest.mark.parametrize("how", ["deleted", "garbage", "empty", "file only", "older"])
@pytest.mark.parametrize("live", [False, True])
async def test_the_index_is_made_anew(folder, store, how, live, tmp_path):
    await add(store, "s", "zero", user_id="ann")
    old = tmp_path / "old.db"
    with sqlite3.connect(folder / "index.db") as source:
        source.execute("VACUUM INTO ?", (str(old),))
    source.close()
    await fill(store)
    expected = await everything(store)
    if not live:
        await store.aclose()
    if how == "file only":
        (folder / "index.db").unlink()
    else:
        remove_index(folder)
        content = {"deleted": None, "garbage": b"no database " * 1000, "empty": b"", "older": old.read_bytes()}[how]
        if content is not None:
            (folder / "index.db").write_bytes(content)
    again = store if live else backend(folder)
    assert await everything(again) == expected
    assert [m.seq for m in await add(again, "gone", "y")] == [2]
    [version] = await again.write_items([SetItems("n", {"j": 1})])
    assert version == 2
    await again.aclose()


async def test_an_index_page_that_is_damaged_while_open_is_an_error_once(folder, store):
    await fill(store)
    expected = await everything(store)
    with sqlite3.connect(folder / "index.db") as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    other.close()
    await store.aclose()
    with (folder / "index.db").open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (file.seek(0, 2) - 4096))
    again = backend(folder)
    for _ in range(3):
        try:
            assert await everything(again) == expected
            break
        except UnavailableError as error:
            assert "index.db" in str(error)  # noqa: PT017  it may be found at opening, or later
    else:
        pytest.fail("the index was not made anew")
    await again.aclose()


async def test_logs_that_came_or_went_while_closed_are_noticed(folder, store, tmp_path):
    await add(store, "s", "one")
    await add(store, "t", "two")
    await store.aclose()
    aside = tmp_path / "aside"
    log_of(folder, "t").rename(aside)
    again = backend(folder)
    assert [s.id for s in (await again.list_sessions(Listing())).items] == ["s"]
    await again.aclose()
    aside.rename(log_of(folder, "t"))
    again = backend(folder)
    assert {s.id for s in (await again.list_sessions(Listing())).items} == {"s", "t"}
    assert await texts(again, "t") == ["two"]
    await again.aclose()


async def test_cost_does_not_grow_with_the_session(store, monkeypatch):
    read = []
    original = files.read_spans

    def counted(file, spans):
        read.append(len(spans))
        assert len(spans) <= 50
        return original(file, spans)

    monkeypatch.setattr("agentstore.drivers.json.logs.read_spans", counted)
    replayed = []
    groups = files.groups
    monkeypatch.setattr("agentstore.drivers.json.logs.groups", lambda *a: replayed.append(a) or groups(*a))

    costs = {}
    for size in (200, 5_000):
        session = f"s{size}"
        await store.append([Append(session, tuple(Message("user", "x", id=str(n)) for n in range(size)))])
        steps = 0

        def step():
            nonlocal steps
            steps += 1

        connection = await store._write(store._folder.reading)
        connection.set_progress_handler(step, 10)
        reader = await store._read(store._folder.reading)
        reader.set_progress_handler(step, 10)
        read.clear()
        assert len(await texts(store, session, limit=50)) == 50
        [outcome] = await store.append([Append(session, (Message("user", "again", id="7"),))])
        assert outcome[0].content == "x"
        await add(store, session, "new")
        costs[size] = (sum(read), steps)
        connection.set_progress_handler(None, 0)
        reader.set_progress_handler(None, 0)
    assert costs[200][0] == costs[5_000][0] == 51
    assert costs[5_000][1] <= costs[200][1] * 1.5 + 5
    assert replayed == []


# --- the folder -------------------------------------------------------------------------------------------------


async def test_a_newer_format_is_refused_and_left_alone(folder):
    folder.mkdir()
    (folder / "agentstore.json").write_text('{"format": 2}')
    store = backend(folder)
    with pytest.raises(SchemaError, match="newer"):
        await store.aopen()
    await store.aclose()
    assert {path.name for path in folder.iterdir()} <= {"agentstore.json", ".lock"}


@pytest.mark.parametrize("text", ["", "x", "[]", "{}"])
async def test_an_unreadable_format_is_reported(folder, text):
    folder.mkdir()
    (folder / "agentstore.json").write_text(text)
    store = backend(folder)
    with pytest.raises(CorruptRecordError, match=r"agentstore\.json"):
        await store.aopen()
    await store.aclose()


@pytest.mark.parametrize("below", ["", "a", "a/b"])
async def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path, below):
    (tmp_path / "file").write_text("")
    store = backend(tmp_path / "file" / below)
    with pytest.raises(UnavailableError, match="choose another") as caught:
        await store.aopen()
    assert isinstance(caught.value.__cause__, OSError)
    await store.aclose()


async def test_the_folder_is_private_and_made_with_its_parents(tmp_path):
    store = backend(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    await store.aopen()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await store.aclose()


def test_an_empty_path_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="json:///folder"):
        JSONBackend(StoreURL.parse("json:///"), PoolOptions())


async def test_a_lock_that_is_held_is_waited_for_then_reported(folder, store):
    await add(store, "s", "one")
    hasty = backend(folder, statement_timeout=0.05)
    await hasty.aopen()
    with filelock.FileLock(folder / ".lock"):
        with pytest.raises(UnavailableError, match=r"\.lock"):
            await add(hasty, "s", "two")
        assert await texts(hasty, "s") == ["one"]
    await add(hasty, "s", "two")
    await hasty.aclose()


async def test_closed_is_closed(store):
    await add(store, "s", "one")
    await store.aclose()
    await store.aclose()
    for call in (store.aopen(), store.ping(), store.append([]), store.read([])):
        with pytest.raises(ClosedError):
            await call


# --- failures ---------------------------------------------------------------------------------------------------


def examples():
    for failure in failures.FAILURES:
        for code in failure.codes or {None}:
            if issubclass(failure.kind, sqlite3.Error):
                error = failure.kind("x")
                error.sqlite_errorcode = sqlite3.SQLITE_ERROR if code is None else code
            elif failure.kind is filelock.Timeout:
                error = filelock.Timeout("x")
            else:
                error = failure.kind(errno.EIO if code is None else code, "x")
            yield failure, error


@pytest.mark.parametrize(("failure", "error"), list(examples()))
def test_the_map_of_failures(failure, error):
    with pytest.raises(failure.error) as caught, failures.translated("here"):
        raise error
    assert type(caught.value) is failure.error
    assert caught.value.__cause__ is error
    assert caught.value.hint == failure.hint
    assert "here" in str(caught.value)


class Disk:
    """A disk that is full from the n-th call on."""

    def __init__(self, monkeypatch, call, spare):
        self._left, self._original = spare, getattr(os, call)
        monkeypatch.setattr(f"agentstore.drivers.json.files.os.{call}", self)

    def __call__(self, number, *rest):
        self._left -= 1
        if self._left < 0:
            if rest and len(rest[0]) > 10:
                self._original(number, rest[0][:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._original(number, *rest)


@pytest.mark.parametrize("call", ["write", "fsync"])
@pytest.mark.parametrize("spare", [0, 1, 2])
async def test_a_full_disk_leaves_nothing_stored(folder, store, call, spare):
    await add(store, "old", "one")
    await add(store, "expired", "z", ttl=timedelta(microseconds=1))
    before = {path: path.read_bytes() for path in folder.glob("s*/*.jsonl")}
    listed = await store.list_sessions(Listing())
    batch = [Append(name, (Message("user", "x" * 100, id="x"),)) for name in ("old", "new", "expired")]
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, call, spare)
        with pytest.raises(UnavailableError, match="Free some space"):
            await store.append(batch)
        assert {path: path.read_bytes() for path in folder.glob("s*/*.jsonl")} == before
        assert await store.read([Read("old"), Read("new")]) == [(await store.read([Read("old")]))[0], []]
    assert await store.list_sessions(Listing()) == listed
    assert not list(folder.rglob("*.new"))
    assert [m[0].seq for m in await store.append(batch)] == [2, 1, 2]


async def test_an_index_that_cannot_be_written_leaves_nothing_stored(folder, store, monkeypatch):
    await add(store, "s", "one")
    before = log_of(folder).read_bytes()

    def full(*_):
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store._conversations._logs, "save", full)
        with pytest.raises(UnavailableError, match="space"):
            await add(store, "s", "two")
        with pytest.raises(UnavailableError, match="space"):
            await store.delete("s")
    assert log_of(folder).read_bytes() == before
    assert await texts(store, "s") == ["one"]
    assert [m.seq for m in await add(store, "s", "two")] == [2]


async def test_a_full_disk_leaves_the_state_as_it_was(folder, store):
    await store.write_items([SetItems("n", {"k": 1})])
    with pytest.MonkeyPatch.context() as patch:
        Disk(patch, "fsync", 0)
        with pytest.raises(UnavailableError):
            await store.write_items([Increment("n", "k")])
    assert await store.write_items([Increment("n", "k")]) == [2]


async def test_a_compaction_that_fails_does_not_fail_the_write(folder, store, monkeypatch, caplog):
    monkeypatch.setattr(items, "_SPARED", 100)
    await store.write_items([SetItems("n", {"k": 1})])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.Edit, "target", property(lambda edit: edit.path / "no" if edit.replaces else edit.path))
        for n in range(20):
            assert await store.write_items([Increment("n", "k")]) == [n + 2]
    assert "keeps its old versions" in caplog.text


async def test_a_log_of_garbage_is_compacted(folder, store, monkeypatch):
    monkeypatch.setattr(items, "_SPARED", 1000)
    path = folder / "state" / names.file_name("")
    await store.write_items([SetItems("", {"stays": b"\x00", "short": 1}, SECOND * 1000), SetItems("", {"gone": 1})])
    await store.write_items([DeleteKeys("", ("gone",))])
    sizes = []
    for n in range(1, 101):
        assert await store.write_items([Increment("", "n")]) == [n]
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2000
    expected = await store.get_items([GetItems("", ("stays", "short", "n", "gone"))])
    assert expected[0]["n"].version == 101  # it began above the version of the key that was removed
    remove_index(folder)
    assert await store.get_items([GetItems("", ("stays", "short", "n", "gone"))]) == expected
    assert await store.write_items([SetItems("", {"gone": 1})]) == [2]


# --- many writers -----------------------------------------------------------------------------------------------

WRITER = """
    import asyncio, sys
    from agentstore.drivers.json import JSONBackend
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append, Increment
    from agentstore.records import Message
    from agentstore.url import StoreURL

    async def main(folder, me):
        store = JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions())
        for n in range(100):
            [outcome] = await store.append([Append("s", (Message("user", f"{me}-{n}"),))])
            assert isinstance(outcome, list), outcome
            if n % 10 == 0:
                await store.write_items([Increment("n", "k")])
        await store.aclose()

    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(main(*sys.argv[1:]))
"""


async def test_four_processes_open_one_folder_and_append_to_one_session(folder, store, run):
    writers = [run(WRITER, folder, n) for n in range(4)]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=60)[1] == ""
        assert writer.returncode == 0
    [found] = await store.read([Read("s")])
    assert [message.seq for message in found] == list(range(1, 401))
    for n in range(4):
        mine = [m.content for m in found if m.content.startswith(f"{n}-")]
        assert mine == [f"{n}-{k}" for k in range(100)]
    assert await store.write_items([Increment("n", "k")]) == [41]


KILLED = """
    import asyncio, sys
    from agentstore.drivers.json import JSONBackend
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append
    from agentstore.records import Message
    from agentstore.url import StoreURL

    async def main(folder, start):
        store = JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions())
        for n in range(int(start), 100_000):
            await store.append([Append(s, (Message("user", f"{n}a"), Message("user", f"{n}b"))) for s in "st"])
            print(n, flush=True)

    asyncio.run(main(*sys.argv[1:]))
"""


async def test_nothing_acknowledged_is_lost_when_a_process_is_killed(folder, run):
    start = 0
    for acknowledged in (1, 7, 20):
        writer = run(KILLED, folder, start)
        seen = [int(writer.stdout.readline()) for _ in range(acknowledged)]
        writer.kill()
        rest, _ = writer.communicate()
        last = int(rest.split("\n")[-2]) if "\n" in rest else seen[-1]
        store = backend(folder)
        for session in "st":
            found = await texts(store, session)
            assert found[: 2 * last + 2] == [f"{n}{x}" for n in range(last + 1) for x in "ab"]
            assert len(found) % 2 == 0
        ends = [len(await texts(store, session)) // 2 for session in "st"]
        start = max(ends)
        for session, end in zip("st", ends, strict=True):  # what was not acknowledged may be there or not
            for n in range(end, start):
                await store.append([Append(session, (Message("user", f"{n}a"), Message("user", f"{n}b")))])
        await store.aclose()


def test_one_object_serves_many_loops_and_threads(folder):
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  used here only

    store = backend(folder)

    async def turns(me):
        for n in range(20):
            await add(store, "s", f"{me}-{n}")
            assert f"{me}-{n}" in await texts(store, "s", limit=200)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda me: asyncio.run(turns(me)), range(4)))

    async def check():
        assert len(await texts(store, "s")) == 80
        await store.aclose()

    asyncio.run(check())


async def test_a_write_in_flight_is_waited_for_when_cancelled(folder, store):
    await store.aopen()
    with filelock.FileLock(folder / ".lock"):
        task = asyncio.create_task(add(store, "s", "one"))
        await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=0.05)
        assert not done
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await texts(store, "s") == ["one"]


@pytest.mark.parametrize("end", ["", "store.close_at_exit()", "del store"])
def test_an_interpreter_that_ends_without_closing(folder, run, end):
    code = """
        import asyncio, sys
        from agentstore.drivers.json import JSONBackend
        from agentstore.options import PoolOptions
        from agentstore.protocol import Append, Read
        from agentstore.records import Message
        from agentstore.url import StoreURL

        store = JSONBackend(StoreURL.parse(f"json:///{sys.argv[1]}"), PoolOptions())

        async def main():
            batch = [Append(str(n), (Message("user", "x"),)) for n in range(10)]
            await store.append(batch)
            await asyncio.gather(*(store.read([Read("1")]) for _ in range(10)))

        asyncio.run(main())
    """
    ended = run(textwrap.dedent(code) + end, folder, flags=("-X", "dev"))
    out, err = ended.communicate(timeout=30)
    assert (out, err, ended.returncode) == ("", "", 0)


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_large_and_many(folder, store):
    large = "é" * (4 * 2**20)
    await add(store, "large", large)
    assert await texts(store, "large") == [large]
    await store.append([Append(f"many-{n}", (Message("user", str(n)),)) for n in range(300)])
    found = await store.read([Read(f"many-{n}") for n in range(300)])
    assert [m.content for [m] in found] == [str(n) for n in range(300)]
    if sys.platform == "linux":
        assert open_files() < 150


async def test_restored_and_expired_sessions_survive_a_new_index(folder, store):
    then = datetime(2020, 1, 1, tzinfo=UTC)
    await store.restore(
        Session("s", created_at=then, updated_at=then, last_seq=9, message_count=1), [Message("user", "x", seq=4)]
    )
    await add(store, "e", "y", ttl=timedelta(microseconds=1))
    [first] = await add(store, "e", "again")
    assert first.seq == 2
    remove_index(folder)
    [message] = (await store.read([Read("s")]))[0]
    assert (message.seq, [m.seq for m in await add(store, "s", "y")]) == (4, [10])
    assert await texts(store, "e") == ["again"]


async def test_versions_of_a_key_removed_and_set_in_one_batch_stay_used(folder, store):
    await store.write_items([SetItems("n", {"k": n}) for n in range(5)])
    assert await store.write_items([DeleteKeys("n", ("k",)), SetItems("n", {"k": 1})]) == [1, 6]
    remove_index(folder)
    assert await store.write_items([SetItems("n", {"new": 1})]) == [6]
