"""The contract: what any driver, ours or a third party's, must pass.

A driver's tests are a class with one fixture::

    from agentstore.testing import DeferredContract, ProcessContract, StoreContract

    class TestMyDriver(StoreContract, DeferredContract, ProcessContract):
        @pytest.fixture
        def database_url(self, tmp_path):
            return f"mydriver:///{tmp_path}/store"

`StoreContract` is what one process can see; `DeferredContract` and `ProcessContract` are for stores that outlive it:
what they must bear from the write-behind queue, and from several processes. Needs
``pip install 'agentstore[testing]'``. The tests are coroutines, run by the pytest plugin that anyio brings along.
"""

from __future__ import annotations

try:
    import hypothesis  # noqa: F401  asked for here, so that its absence is explained
    import pytest
except ImportError as error:
    raise ImportError("agentstore.testing needs pytest and hypothesis: pip install 'agentstore[testing]'") from error

_PARTS = (
    "appends",
    "common",
    "concurrency",
    "deferred",
    "expiry",
    "ids",
    "maintenance",
    "marks",
    "model",
    "operations",
    "ownership",
    "processes",
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in (*_PARTS, "reads", "scopes", "sessions", "state")))

from .appends import AppendContract  # noqa: E402  after the rewriting of its assertions was asked for
from .common import GUARANTEES  # noqa: E402
from .concurrency import CancellationContract, LoopContract  # noqa: E402
from .deferred import DeferredContract  # noqa: E402
from .expiry import ExpiryContract  # noqa: E402
from .ids import IdContract, TextContract  # noqa: E402
from .maintenance import MaintenanceContract  # noqa: E402
from .marks import FindContract, MarkContract  # noqa: E402
from .model import ModelContract  # noqa: E402
from .operations import OperationContract  # noqa: E402
from .ownership import OwnershipContract  # noqa: E402
from .processes import ProcessContract  # noqa: E402
from .reads import ReadContract  # noqa: E402
from .scopes import ScopeContract  # noqa: E402
from .sessions import SessionContract  # noqa: E402
from .state import StateContract  # noqa: E402

__all__ = ["GUARANTEES", "DeferredContract", "ProcessContract", "StoreContract"]


class StoreContract(
    AppendContract,
    ReadContract,
    SessionContract,
    OwnershipContract,
    ExpiryContract,
    IdContract,
    TextContract,
    StateContract,
    ScopeContract,
    CancellationContract,
    LoopContract,
    OperationContract,
    MarkContract,
    FindContract,
    MaintenanceContract,
    ModelContract,
):
    """All that one process can see of a store."""
