import pytest

from agentstore.testing import DeferredContract, ProcessContract, StoreContract


class TestPostgreSQL(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("postgresql")
