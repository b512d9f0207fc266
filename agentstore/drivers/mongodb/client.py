"""The client library, named here alone: Motor, until PyMongo's own asynchronous client takes its place.

What the two do differently is here too: on which loop a client runs, and how it is closed. (Motor sends each call to a
thread; PyMongo's client would be closed by awaiting it.)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import pymongo
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo.monitoring import ConnectionPoolListener

from . import address, errors

if TYPE_CHECKING:
    from pymongo import monitoring

    from agentstore.options import PoolOptions
    from agentstore.url import StoreURL

Document: TypeAlias = dict[str, Any]
Client: TypeAlias = "AsyncIOMotorClient[Document]"
Collection: TypeAlias = "AsyncIOMotorCollection[Document]"


class Tables:
    """The collections of a store, by way of one client."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.database = client[name]
        self.sessions: Collection = self.database["agentstore_sessions"]
        self.messages: Collection = self.database["agentstore_messages"]
        self.state: Collection = self.database["agentstore_state"]
        self.floors: Collection = self.database["agentstore_state_floors"]
        self.meta: Collection = self.database["agentstore_meta"]


class ClientPool:
    """A client, which is a pool by itself: everyone on its loop gets it."""

    def __init__(self, url: StoreURL, options: PoolOptions) -> None:
        self._url = url
        self._options = options
        self._tables: Tables | None = None
        self._counter = _Counter()

    async def acquire(self) -> Tables:
        if self._tables is None:
            client: Client = AsyncIOMotorClient(
                self._url.secret,
                io_loop=asyncio.get_running_loop(),
                event_listeners=[self._counter],
                **address.settings(self._url, self._options),
            )
            self._tables = Tables(client, address.database_name(self._url))
        known: Any = self._tables.client.topology_description  # which Motor's stubs take for a method
        if not known.has_writable_server():
            try:
                with pymongo.timeout(address.selection(self._options)):  # a statement would wait for its own timeout
                    await self._tables.client.admin.command("ping")
            except errors.RAISED as error:
                raise errors.translated(error, str(self._url)) from error
        return self._tables

    def release(self, connection: Tables, error: BaseException | None) -> None:
        """Nothing to do: the client drops connections that failed, and a cancelled call ends on its thread."""

    async def aclose(self) -> None:
        """Say goodbye to the server, which takes a round trip, on a thread."""
        tables, self._tables = self._tables, None
        if tables is None:
            return
        try:
            await asyncio.to_thread(tables.client.close)
        except RuntimeError:  # the interpreter is ending and starts no more threads
            tables.client.close()

    def terminate(self) -> None:
        """Close without waiting; the client's sockets and threads do not need the loop."""
        tables, self._tables = self._tables, None
        if tables is not None:
            with contextlib.suppress(RuntimeError):  # the interpreter is ending: the sockets end with it
                threading.Thread(target=tables.client.close, name="agentstore-mongodb-close", daemon=True).start()

    def size(self) -> int:
        return self._counter.open


class _Counter(ConnectionPoolListener):
    """Counts a client's connections."""

    def __init__(self) -> None:
        self.open = 0
        self._guard = threading.Lock()

    def _add(self, number: int) -> None:
        with self._guard:
            self.open += number

    def connection_created(self, event: monitoring.ConnectionCreatedEvent) -> None:
        del event
        self._add(1)

    def connection_closed(self, event: monitoring.ConnectionClosedEvent) -> None:
        del event
        self._add(-1)

    def pool_created(self, event: monitoring.PoolCreatedEvent) -> None: ...
    def pool_ready(self, event: monitoring.PoolReadyEvent) -> None: ...
    def pool_cleared(self, event: monitoring.PoolClearedEvent) -> None: ...
    def pool_closed(self, event: monitoring.PoolClosedEvent) -> None: ...
    def connection_ready(self, event: monitoring.ConnectionReadyEvent) -> None: ...
    def connection_check_out_started(self, event: monitoring.ConnectionCheckOutStartedEvent) -> None: ...
    def connection_check_out_failed(self, event: monitoring.ConnectionCheckOutFailedEvent) -> None: ...
    def connection_checked_out(self, event: monitoring.ConnectionCheckedOutEvent) -> None: ...
    def connection_checked_in(self, event: monitoring.ConnectionCheckedInEvent) -> None: ...
