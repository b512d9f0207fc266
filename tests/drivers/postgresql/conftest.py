"""A database on the shared server, and a backend on it."""

import pytest
from postgresql_kit import make


@pytest.fixture
def url(fresh):
    return fresh("postgresql")


@pytest.fixture
async def backend(url):
    backend = make(url)
    await backend.aopen()
    yield backend
    await backend.aclose()
