import pytest

from agentstore.testing import DeferredContract, ProcessContract, StoreContract


class TestPgBouncer(StoreContract, DeferredContract, ProcessContract):
    """In transaction mode: each transaction may meet another connection of the server."""

    @pytest.fixture
    def database_url(self, fresh):
        return fresh("pgbouncer")
