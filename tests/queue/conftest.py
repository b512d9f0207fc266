import pytest
from queue_kit import SPEC

from agentstore.drivers import registry


@pytest.fixture
def puppets(monkeypatch):
    """The scheme ``puppet:``, see `queue_kit`."""
    monkeypatch.setitem(registry._DRIVERS, "puppet", registry.DriverSpec(SPEC))
