"""Both primitives in one object."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from agentstore.errors import ConfigurationError
from agentstore.findings import Finding

from .conversations import Conversations
from .state import State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentstore.options import PoolOptions
    from agentstore.protocol import Backend
    from agentstore.stats import PoolStats
    from agentstore.url import StoreURL


class MemoryBackend(Conversations, State):
    """Conversations and state in dicts."""

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        del pool  # there is nothing to connect to
        if url.hosts or url.path.strip("/"):
            raise ConfigurationError(f"{url} names a place, but memory: has none", hint="Write memory:")
        super().__init__()

    async def aopen(self) -> None:
        self._check_open()

    async def aclose(self) -> None:
        self._closed = True

    async def ping(self) -> None:
        self._check_open()

    def close_at_exit(self) -> None:
        self._closed = True

    def pools(self) -> Sequence[PoolStats]:
        return ()

    async def examine(self) -> list[Finding]:
        self._check_open()
        advice = "All of it ends with this process: choose another URL to keep it"
        return [
            Finding("server", "memory of this process"),
            Finding("durability", "none beyond this process", "warning", advice),
        ]


if TYPE_CHECKING:
    _driver: Callable[[StoreURL, PoolOptions], Backend] = MemoryBackend
