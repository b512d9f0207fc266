import pytest
from mongodb_kit import Stoppable, backend


@pytest.fixture
def url(fresh):
    """The URL of an empty store."""
    return fresh("mongodb")


@pytest.fixture
async def pair(url):
    """A writer that can be stopped, and another driver on the same store."""
    writer, other = Stoppable(url), backend(url)
    await other.aopen()
    await writer.backend.aopen()
    yield writer, other
    await writer.backend.aclose()
    await other.aclose()
