import pytest

from agentstore.testing import DeferredContract, ProcessContract, StoreContract


class TestSQLite(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/store.db"


class TestSQLiteInMemory(StoreContract):
    @pytest.fixture
    def database_url(self):
        return "sqlite://"
