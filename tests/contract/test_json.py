import pytest

from agentstore.testing import ProcessContract, StoreContract


class TestJSON(StoreContract, ProcessContract):
    @pytest.fixture
    def database_url(self, tmp_path):
        return f"json:///{tmp_path}/store"
