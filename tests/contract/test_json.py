import pytest

from agentstore.testing import DeferredContract, ProcessContract, StoreContract


class TestJSON(StoreContract, DeferredContract, ProcessContract):
    @pytest.fixture
    def database_url(self, tmp_path):
        return f"json:///{tmp_path}/store"
