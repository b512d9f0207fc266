import pytest

from agentstore.testing import ProcessContract, StoreContract


class TestPgBouncer(StoreContract, ProcessContract):
    """In transaction mode: each transaction may meet another connection of the server."""

    @pytest.fixture
    def database_url(self, fresh):
        return fresh("pgbouncer")
