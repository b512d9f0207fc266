"""A folder for each test, and a store by hand beside it."""

import asyncio
import gc
import json

import pytest
from by_hand import FakeRaw
from typer.testing import CliRunner

from agentstore.bench import raw
from agentstore.cli.app import app
from agentstore.drivers import registry
from agentstore.options import PoolOptions
from agentstore.protocol import Listing
from agentstore.url import StoreURL


@pytest.fixture(autouse=True, scope="module")
def collected():
    """What the tests' own machinery holds is no garbage: each sample begins with a collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hand(monkeypatch):
    """The raw counterpart that ``--compare raw`` finds for any store."""
    fake = FakeRaw()
    monkeypatch.setattr(raw, "load", lambda url: fake)
    return fake


@pytest.fixture
def bench():
    """``bench("--workload", "append", ...)``: the command, with little work."""

    def run(*arguments: str):
        small = ("--sessions", "3", "--turns", "4", "--messages", "60", "--repeats", "2")
        return CliRunner().invoke(app, ["bench", *small, *arguments], catch_exceptions=False)

    return run


@pytest.fixture
def found(bench):
    """The same with ``--json``: the one result."""

    def run(*arguments: str):
        done = bench(*arguments, "--json")
        assert done.exit_code == 0, done.output
        (result,) = json.loads(done.stdout)["results"]
        return result

    return run


@pytest.fixture
def stored():
    """``stored(url)``: the sessions' ids and the namespaces of a store."""

    async def look(url: str):
        backend = registry.load(StoreURL.parse(url), PoolOptions())
        try:
            await backend.aopen()
            sessions = await backend.list_sessions(Listing())
            return [session.id for session in sessions.items], await backend.namespaces()
        finally:
            await backend.aclose()

    return lambda url: asyncio.run(look(url))
