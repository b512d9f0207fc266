"""What a failing disk or index becomes, and what it leaves in the JSON files."""

import errno
import os
import sqlite3
from datetime import timedelta

import filelock
import pytest
from json_kit import add, log_of, texts

from agentstore.drivers.json import failures, files, items
from agentstore.errors import UnavailableError
from agentstore.protocol import Append, Increment, Listing, Read, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio


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
