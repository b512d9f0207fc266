import pytest

from agentstore.testing import DeferredContract, ProcessContract, StoreContract


class TestRedis(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis")


class TestRedisCluster(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis-cluster")


class TestRedisSentinel(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, fresh):
        return fresh("redis-sentinel")
