"""The driver's face: calls that come from any thread or loop, each in one hop to a thread."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, ParamSpec, TypeVar

from aiofiles.os import wrap

from agentstore.concurrency import DaemonExecutor, uncancelled
from agentstore.errors import ClosedError, ConfigurationError
from agentstore.forking import SQLITE

from .conversations import Conversations
from .examine import examine
from .failures import DAMAGED, code_of, translated
from .folder import Folder
from .state import State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping, Sequence

    from agentstore.findings import Finding
    from agentstore.options import PoolOptions
    from agentstore.protocol import Append, Change, Find, GetItems, Head, Listing, Outcome, Read, Scan, StateOp
    from agentstore.records import Message, Page, Session, StateItem
    from agentstore.stats import PoolStats
    from agentstore.url import StoreURL

P = ParamSpec("P")
T = TypeVar("T")


class JSONBackend:
    """Conversations and state in a folder of JSON lines.

    Writes take turns on one thread; reads have ``PoolOptions.size`` threads, and wait for a write only where it is
    changing what they read.
    """

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, url: StoreURL, pool: PoolOptions) -> None:
        path = url.file_path()
        if path is None:
            raise ConfigurationError(f"{url} names no folder", hint=f"Write {url.scheme}:///folder, for example")
        self._path = path
        self._folder = Folder(Path(path), pool.statement_timeout)
        self._conversations = Conversations(self._folder)
        self._state = State(self._folder)
        self._writer = DaemonExecutor(1, "agentstore-json-write")
        self._readers = DaemonExecutor(pool.size, "agentstore-json-read")
        self._closed = False

    async def aopen(self) -> None:
        await self._read(self._folder.reading)

    async def aclose(self) -> None:
        await wrap(self.close_at_exit)()

    async def ping(self) -> None:
        await self._read(self._folder.ping)

    def close_at_exit(self) -> None:
        self._closed = True
        self._writer.shutdown()
        self._readers.shutdown()
        with SQLITE:
            self._folder.close()

    def pools(self) -> Sequence[PoolStats]:
        return ()

    async def examine(self) -> list[Finding]:
        return await self._write(examine, self._folder)

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        return await self._write(self._conversations.append, batch)

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        return await self._read(self._conversations.read, batch)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        return await self._read(self._conversations.find, batch)

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        return await self._read(self._conversations.heads, batch)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        return await self._read(self._conversations.list_sessions, listing)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        return await self._write(self._conversations.pop, session_id, count, user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        return await self._write(self._conversations.clear, session_id, user_id)

    async def update(self, change: Change) -> Session:
        return await self._write(self._conversations.update, change)

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        return await self._write(self._conversations.delete, session_id, user_id)

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._write(self._conversations.restore, session, messages)

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        return await self._write(self._conversations.rewrite, session, messages)

    async def purge_sessions(self) -> int:
        return await self._write(self._conversations.purge)

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        return await self._read(self._state.get_items, batch)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        return await self._write(self._state.write_items, batch)

    async def scan(self, scan: Scan) -> list[StateItem]:
        return await self._read(self._state.scan, scan)

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        return await self._read(self._state.namespaces, after, limit)

    async def purge_state(self) -> int:
        return await self._write(self._state.purge)

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._begun(self._readers, partial(self._call, function, *args, **kwargs))

    async def _write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = partial(self._call, function, *args, **kwargs)
        return await uncancelled(self._begun(self._writer, call, lasting=True))

    def _begun(self, threads: DaemonExecutor, call: Callable[[], T], *, lasting: bool = False) -> asyncio.Future[T]:
        self._check_open()
        try:
            return threads.call(call, lasting=lasting)
        except RuntimeError:  # it was closed just now, and its threads take nothing more
            self._check_open()
            raise

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with SQLITE, translated(self._path):
            try:
                return function(*args, **kwargs)
            except sqlite3.DatabaseError as error:
                if code_of(error) in DAMAGED:
                    self._folder.renew()
                raise

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError
