"""The contract on the current engine: the same driver, the same statements."""

import uuid

import embedded_engine
import pytest

from agentstore.drivers import registry
from agentstore.testing import StoreContract

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]  # an engine within this very process is slower


@pytest.fixture
def database_url(monkeypatch):
    monkeypatch.setitem(registry._DRIVERS, embedded_engine.SCHEME, embedded_engine.SPEC)
    name = f"test_{uuid.uuid4().hex}"
    yield f"{embedded_engine.SCHEME}://localhost/{name}"
    embedded_engine.run("default", f"DROP DATABASE IF EXISTS {name}").result()


class TestCurrentEngine(StoreContract):
    @pytest.fixture
    def database_url(self, database_url):
        return database_url
