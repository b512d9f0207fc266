import pytest

from agentstore.testing import ProcessContract, StoreContract


class TestRedis(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis")


class TestRedisCluster(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis-cluster")


class TestRedisSentinel(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis-sentinel")
