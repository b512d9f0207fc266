"""A SQLite file, and a backend on it."""

import pytest
from sqlite_kit import make


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "a.db")


@pytest.fixture
async def backend(path):
    backend = make(path)
    await backend.aopen()
    yield backend
    await backend.aclose()
