"""A database on the shared server, and a backend on it."""

import pytest
from mysql_kit import make

from agentstore.drivers.recent import Recent, RecentItems


@pytest.fixture
def url(fresh):
    return fresh("mysql")


@pytest.fixture
async def backend(url):
    backend = make(url)
    await backend.aopen()
    yield backend
    await backend.aclose()


@pytest.fixture
def unguessed(monkeypatch):
    """Whatever a write touches is looked at first, as if this process had not written it before."""
    monkeypatch.setattr(Recent, "guess", lambda *_: {})
    monkeypatch.setattr(RecentItems, "guess", lambda *_: None)
