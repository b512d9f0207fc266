"""A file that goes away under the open database."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest
from sqlite_kit import make, turn

from agentstore.drivers.sqlite import opening
from agentstore.errors import UnavailableError
from agentstore.protocol import Head, Read, SetItems

pytestmark = pytest.mark.anyio


def delete(path):
    path.unlink()


def move(path):
    path.rename(path.with_name("moved.db"))


def replace(path):
    shutil.copy(path, path.with_name("copy.db"))
    path.with_name("copy.db").replace(path)


@pytest.mark.parametrize("lose", [delete, move, replace])
async def test_nothing_is_acknowledged_into_a_lost_file(path, backend, lose):
    await backend.append([turn("s")])
    assert len((await backend.read([Read("s")]))[0]) == 1
    lose(Path(path))
    for call in (backend.append([turn("s")]), backend.write_items([SetItems("n", {"k": 1})]), backend.ping()):
        with pytest.raises(UnavailableError, match=r"moved, deleted or replaced.*make a new one"):
            await call
    assert (await backend.read([Read("s")]))[0][0].content == "hello"  # what is known may be read
    assert (await backend.heads([Head("s")]))[0].last_seq == 1


async def test_a_read_that_fails_for_it_says_so(path, backend):
    move(Path(path))
    with pytest.raises(UnavailableError, match="moved, deleted or replaced") as caught:
        await backend.read([Read("s")])  # the first, for which SQLite opens the log
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_a_file_that_is_put_back_is_written_again(path, backend):
    move(Path(path))
    with pytest.raises(UnavailableError):
        await backend.append([turn("s")])
    Path(path).with_name("moved.db").rename(path)
    assert (await backend.append([turn("s")]))[0][0].seq == 1
    await backend.ping()


async def test_the_reader_does_not_make_a_file(path, monkeypatch):
    connect = opening.connect_reader

    def late(place, pool):
        Path(path).unlink()
        return connect(place, pool)

    monkeypatch.setattr(opening, "connect_reader", late)
    backend = make(path)
    with pytest.raises(UnavailableError, match="moved, deleted or replaced"):
        await backend.aopen()
    assert not await asyncio.to_thread(Path(path).exists)
    await backend.aclose()
