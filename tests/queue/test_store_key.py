"""Which URLs are one store, and where journals live."""

import os
from pathlib import Path

import platformdirs
import pytest
from journal_kit import Told, folder

from agentstore.queue.journal import journal_dir, store_key
from agentstore.url import StoreURL


def key(url):
    return store_key(StoreURL.parse(url))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("postgresql://u:a@h/x", "postgresql://u:b@h/x"),
        ("postgresql://u:a@h/x", "postgresql://u@h/x"),
        ("postgresql://u@h/x", "postgres://u@h/x"),
        ("postgresql://u@h/x", "postgresql+asyncpg://u@H/x?application_name=z&sslmode=require"),
        ("postgresql://u@a,b/x", "postgresql://u@b,a/x"),
        ("mysql://u@h/x", "mariadb://u@h/x"),
        ("redis://h/0", "rediss://h/0?tls=1"),
        ("clickhouse://h/x", "clickhouses://h/x"),
        ("sqlite:///x.db", "sqlite+aiosqlite:///x.db"),
        ("sqlite:///x.db", "sqlite:///./a/../x.db"),
        ("json:///talks", "json:///talks/"),
    ],
)
def test_one_store(one, other):
    assert key(one) == key(other)
    assert "u" not in key(one).partition("-")[2], "only a digest"


def test_different_stores():
    urls = [
        "postgresql://u@h/x",
        "postgresql://v@h/x",
        "postgresql://u@h/y",
        "postgresql://u@i/x",
        "postgresql://u@h:5433/x",
        "postgresql://u@h/x?schema=a",
        "postgresql://u@h/x?schema=b",
        "postgresql:///x?host=/run/a",
        "postgresql:///x?host=/run/b",
        "mysql://u@h/x",
        "redis://h/0",
        "redis://h/1",
        "redis://h/0?prefix=a",
        "redis+unix:///run/a?db=1",
        "redis+unix:///run/a?db=2",
        "sqlite:///x.db",
        "sqlite:///y.db",
        "sqlite:///X.db",
        "json:///x.db",
    ]
    assert len({key(url) for url in urls}) == len(urls)


def test_files_are_where_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert key("sqlite:///x.db") == key(f"sqlite:///{tmp_path}/x.db")
    assert key("json:///x") == key(f"file://{tmp_path}/x")
    (tmp_path / "link").symlink_to(tmp_path)
    assert key("sqlite:///link/x.db") == key("sqlite:///x.db")


def test_one_store_finds_the_journals_of_its_other_name(tmp_path):
    journal = folder(tmp_path, url=StoreURL.parse("postgres://u:old@h/x")).create("j", 2**20, Told())
    journal.write(b"x", 1, 1)
    journal.close()
    [leftover] = folder(tmp_path, url=StoreURL.parse("postgresql+asyncpg://u:new@h/x")).leftovers()
    assert leftover.path == journal.path
    assert folder(tmp_path, url=StoreURL.parse("postgresql://u:new@h/y")).leftovers() == []
    leftover.release()


def test_where_journals_live(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path))
    assert journal_dir() == tmp_path / "journal"
    assert journal_dir("here") == Path.cwd() / "here"
    assert journal_dir(tmp_path / "x") == tmp_path / "x"
    monkeypatch.delenv("AGENTSTORE_HOME")
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name, appauthor: os.path.join("/data", name))  # noqa: PTH118
    assert journal_dir() == Path("/data/agentstore/journal")
