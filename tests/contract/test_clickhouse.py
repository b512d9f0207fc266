import pytest

from agentstore.testing import ProcessContract, StoreContract


class TestClickHouse(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("clickhouse")
