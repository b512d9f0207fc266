import pytest

from agentstore.testing import ProcessContract, StoreContract


class TestPostgreSQL(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("postgresql")
