"""The same work by hand, on each backend's bare driver: what agentstore is measured against.

*Raw* is the best that can be written by hand with the same guarantees: the same tables and indexes (unique message
ids, the session row and its listing index written in the same transaction), the same columns decoded into an equal
`Message`, the same fsyncs.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from agentstore.drivers import registry
from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.records import Message
    from agentstore.url import StoreURL

Turn: TypeAlias = "tuple[str, Sequence[Message]]"
"""A session's id, and the messages to append to it."""


class Raw(Protocol):
    """A bare driver with a pool of ten connections, on a store that agentstore has prepared.

    Any number of tasks of one event loop may call it at once. Durability is that of agentstore's ``commit``.
    """

    async def aopen(self) -> None:
        """Connect, and prepare what agentstore's tables do not offer."""
        ...

    async def aclose(self) -> None:
        """Remove what was stored, and disconnect."""
        ...

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        """Store a turn in a transaction of its own."""
        ...

    async def append_group(self, turns: Sequence[Turn]) -> None:
        """Store turns of different sessions in one commit."""
        ...

    async def last(self, session_id: str, limit: int) -> list[Message]:
        """The newest messages, oldest first, by one select."""
        ...

    async def set(self, namespace: str, key: str, value: Any) -> int:
        """Store a value by one statement; its version."""
        ...

    async def get(self, namespace: str, key: str) -> Any:
        """A value, by one statement."""
        ...

    async def insert(self, session_id: str, messages: Sequence[Message]) -> None:
        """The bare rows in one commit: no ids to be unique, no session row, no indexes. What guarantees are not had."""
        ...


def load(url: StoreURL) -> Raw:
    """The raw counterpart of a backend's driver, not yet connected.

    Args:
        url: Of a store that agentstore has prepared.

    Raises:
        ConfigurationError: There is none.
    """
    driver = registry.find(url).factory.partition(":")[0]
    name = driver.rpartition(".")[2]
    if driver == f"agentstore.drivers.{name}" and find_spec(f"{__name__}.{name}") is not None:
        raw: Raw = import_module(f"{__name__}.{name}").by_hand(url)
        return raw
    raise ConfigurationError(f"{url} has no raw counterpart to compare with")
