import pytest

from agentstore.drivers import registry
from agentstore.keyring import Keyring
from agentstore.layers.encryption import Encrypting
from agentstore.options import PoolOptions
from agentstore.testing import DeferredContract, ProcessContract, StoreContract
from agentstore.url import StoreURL


class TestSQLite(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/store.db"


class TestSQLiteInMemory(StoreContract):
    @pytest.fixture
    def database_url(self):
        return "sqlite://"


class TestEncryptedSQLite(StoreContract, ProcessContract):
    """The whole stack over it, with a key to come after the first."""

    @pytest.fixture
    def database_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/store.db"

    @pytest.fixture
    def options(self):
        return {"encryption_key": [f"the {number} random key" for number in ("first", "other")]}

    @pytest.fixture
    async def store(self, database_url, options):
        driver = registry.load(StoreURL.parse(database_url), PoolOptions())
        store = Encrypting(driver, Keyring(options["encryption_key"]))
        await store.aopen()
        yield store
        await store.aclose()
