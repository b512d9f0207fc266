"""A database on the shared server, and a backend on it."""

import pytest
from mysql_kit import make


@pytest.fixture
def url(fresh):
    return fresh("mysql")


@pytest.fixture
async def backend(url):
    backend = make(url)
    await backend.aopen()
    yield backend
    await backend.aclose()
