"""db(): its arguments, its environment, and what importing costs."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from agentstore import ConfigurationError, DefaultSessionStore, PoolOptions, QueueOptions, RetryOptions, db
from agentstore.database import _identity
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"durability": "eventual"}, "durability is 'eventual'; accepted: 'commit', 'journal', 'memory'"),
        ({"replicas": ["memory:"]}, "memory:// can have no replicas: it is on this machine, where nobody copies it"),
        ({"replicas": ["nosql://h/x"]}, "memory:// can have no replicas"),
        ({"replicas": ["no url"]}, "the database URL has no scheme"),
        ({"replicas": [5]}, "a database URL is a str, not 5"),
        ({"fallback": "disk"}, "fallback is 'disk'; accepted: None, 'memory', 'journal'"),
        ({"encryption_key": "k3y"}, "encryption_key: a key has 3 characters, and at least 16 are needed"),
        ({"replicas": None}, "replicas must be several URLs, not None"),
        ({"replicas": "sqlite:///r.db"}, "replicas must be several URLs, not a str"),
        ({"replicas": 5}, "replicas must be several URLs, not 5"),
        ({"state_url": 5}, "state_url must be a str, not 5"),
        ({"state_url": []}, "state_url must be a str, not a list"),
        ({"durability": 10**5000}, "durability is an int of"),
        ({"retry": {"attempts": 2}}, "RetryOptions was expected"),
        ({"session_ttl": 0}, "session_ttl"),
        ({"session_ttl": 10**5000}, "session_ttl"),
        ({"session_ttl": "1d"}, "session_ttl"),
        ({"pool": {"size": 3}}, "PoolOptions was expected"),
    ],
)
def test_what_cannot_be_is_refused(arguments, told):
    with pytest.raises(ConfigurationError) as caught:
        db("memory:", **arguments)
    assert told in str(caught.value)
    assert "k3y" not in str(caught.value)


def test_every_documented_argument_is_taken():
    db(
        "memory:",
        "memory:",
        durability="commit",
        replicas=(),
        fallback=None,
        session_ttl=timedelta(days=1),
        encryption_key=None,
        pool=PoolOptions(size=10, timeout=10.0, connect_timeout=5.0, statement_timeout=30.0, max_lifetime=1800.0),
        queue=QueueOptions(
            max_messages=10_000,
            max_bytes=64 * 2**20,
            timeout=30.0,
            flush_interval=0.05,
            close_timeout=10.0,
            journal_dir=None,
            journal_max_bytes=2**30,
        ),
        retry=RetryOptions(attempts=3, deadline=10.0),
    )


@pytest.mark.parametrize("url", [5, 0, b"memory:", []])
def test_a_url_is_a_str(url):
    with pytest.raises(ConfigurationError, match="database_url must be a str"):
        db(url)


@pytest.mark.parametrize("options", [PoolOptions, QueueOptions, RetryOptions])
def test_options_refuse_what_is_not_positive(options):
    for name in options.__dataclass_fields__:
        if name == "journal_dir":
            continue
        for wrong in (0, -1, True, "10", None, float("nan"), float("inf"), 10**5000):
            with pytest.raises(ConfigurationError, match=f"^{options.__name__}.{name} "):
                options(**{name: wrong})


def test_options_tell_ints_from_seconds():
    assert PoolOptions(timeout=3).timeout == 3
    with pytest.raises(ConfigurationError, match=r"PoolOptions.size must be an int, not 1.5"):
        PoolOptions(size=1.5)
    assert QueueOptions(journal_dir=Path("x")).journal_dir == Path("x")
    with pytest.raises(ConfigurationError, match=r"QueueOptions.journal_dir must be a path, not 5"):
        QueueOptions(journal_dir=5)


async def test_the_environment_names_the_backends(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTSTORE_DATABASE_URL", raising=False)
    monkeypatch.delenv("AGENTSTORE_STATE_URL", raising=False)
    assert repr(db()) == "db('sqlite:///agentstore.db')"
    monkeypatch.setenv("AGENTSTORE_DATABASE_URL", "sqlite:///env.db")
    assert repr(db(database_url=None, state_url=None)) == "db('sqlite:///env.db')"
    monkeypatch.setenv("AGENTSTORE_STATE_URL", "memory:")
    async with db() as database:
        await database.append("s", {"role": "user", "content": "hi"})
        await database.state.set("k", 1)
    assert repr(database) == "db('sqlite:///env.db', state_url='memory://')"
    assert (tmp_path / "env.db").exists()
    async with db(state_url="sqlite:///env.db") as database:
        assert len(await database.messages("s")) == 1
        assert await database.state.get("k") is None  # it was kept in memory


async def test_the_default_session_store_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path / "home"))
    async with DefaultSessionStore() as database:
        await database.append("s", {"role": "user", "content": "hi"})
    assert len(list((tmp_path / "home" / "sessions").rglob("s-*.jsonl"))) == 1
    async with DefaultSessionStore(tmp_path / "odd ?#% name") as database:
        await database.append("s", {"role": "user", "content": "hi"})
    assert len(list((tmp_path / "odd ?#% name").rglob("s-*.jsonl"))) == 1


def test_an_empty_home_is_none(monkeypatch):
    monkeypatch.delenv("AGENTSTORE_HOME", raising=False)
    usual = repr(DefaultSessionStore())
    monkeypatch.setenv("AGENTSTORE_HOME", "")
    assert repr(DefaultSessionStore()) == usual


def test_the_default_session_store_takes_a_path():
    for path in (5, b"folder"):
        with pytest.raises(ConfigurationError, match="path must be a str or a Path"):
            DefaultSessionStore(path)
    with pytest.raises(ConfigurationError, match="NUL"):
        DefaultSessionStore("a\0b")


async def test_making_one_touches_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    db("sqlite:///x.db")
    db("json:///folder")
    DefaultSessionStore(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


async def test_one_store_twice_is_one_identity(tmp_path):
    url = f"sqlite:///{tmp_path}/x.db"
    assert db(url).identity == db(url).identity
    assert db(f"json:///{tmp_path}/f").identity == db(f"file:///{tmp_path}/f").identity
    assert db("memory:").identity != db("memory:").identity
    assert db("sqlite://").identity != db("sqlite:///:memory:").identity


def test_a_server_behind_a_socket_has_an_identity():
    first, second = (StoreURL.parse(f"redis+unix://{user}:p@/run/redis.sock") for user in "ab")
    assert _identity(first) == _identity(first) != _identity(second)


async def test_session_ttl_is_that_of_new_sessions():
    async with db("memory:", session_ttl=60) as database:
        await database.append("s", [])
        await database.append("own", [], ttl=5)
        for session_id, seconds in (("s", 60), ("own", 5)):
            session = await database.session(session_id)
            assert session.expires_at - session.updated_at == timedelta(seconds=seconds)


async def test_stats_tell_what_happened():
    async with db("memory:") as database:
        await database.append("s", {"role": "user", "content": "hi"})
        with pytest.raises(ValueError, match="session_id is empty"):
            await database.messages("")
        with pytest.raises(Exception, match="expected"):
            await database.append("s", [], expected_seq=7)
        stats = database.stats()
    assert (stats.queue.writes, stats.queue.waiting) == (2, 0)
    assert stats.latencies["append"].count == 2
    assert stats.errors == {"ConflictError": 1}
    assert stats.to_dict()["latencies"]["append"]["count"] == 2


def test_importing_imports_no_driver():
    code = "import sys, agentstore; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    heavy = {"sqlite3", "aiosqlite", "aiofiles", "filelock", "sqlalchemy", "alembic", "pydantic", "openai", "httpx"}
    heavy |= {"typer", "rich", "asyncpg", "aiomysql", "redis", "motor", "asynch", "agentstore.drivers.memory"}
    assert heavy.isdisjoint(done.stdout.split())
