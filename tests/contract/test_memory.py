import pytest

from agentstore.testing import StoreContract


class TestMemory(StoreContract):
    @pytest.fixture
    def database_url(self):
        return "memory:"
