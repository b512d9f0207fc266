"""A connection on a thread of its own, which runs whole functions: one hop for a transaction, not one a statement.

The thread and its queue are aiosqlite's; its futures are not used. They are answered through the loop that waits, and
where that loop was closed meanwhile the thread would die of it, leaving everybody after it to wait for ever. Its
thread is no daemon either: the interpreter would wait at exit for a connection that nobody closed.
"""

from __future__ import annotations

import asyncio
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL as END

from agentstore.concurrency import Lasting, answer
from agentstore.errors import ClosedError, UnavailableError
from agentstore.forking import SQLITE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

T = TypeVar("T")


class ConnectionThread:
    """A SQLite connection that any thread and event loop may use.

    Its thread starts at once. Dropped without `close`, it ends that by itself. In a forked process there is neither
    thread nor connection: nothing can be run, and there is nothing to close or wait for. The parent connects anew.

    Args:
        connect: Makes the connection, on its thread; any thread may close it.
        parts: Whether it can be closed for a fork; not so where all that is stored would be gone.

    Raises:
        UnavailableError: The system gives no thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, parts: bool = True) -> None:
        worker = aiosqlite.Connection(connect, iter_chunk_size=1)
        self._queue = worker._tx  # noqa: SLF001  the one thing we lean on; pyproject.toml holds aiosqlite's version
        self._thread = worker._thread  # noqa: SLF001  as above
        self._thread.daemon = True
        self._thread.name = "agentstore-sqlite"
        self._held = _Held(connect, parts=parts)
        self._guard = threading.Lock()  # held while one item is queued
        self._ending = False
        self._pid = os.getpid()
        try:
            self._thread.start()
        except RuntimeError as error:
            raise UnavailableError(f"SQLite needs a thread, and there is none: {error}", passing=False) from error

    def open(self) -> asyncio.Future[None]:
        """Connect, unless that is done; if it fails it may be tried again.

        Raises:
            ClosedError: `close` was called.
            UnavailableError: This is a forked process.
        """
        held = self._held

        def connected() -> None:
            held.open()

        loop = asyncio.get_running_loop()
        return self._enqueue(connected, loop, loop.create_future())

    def run(self, function: Callable[[sqlite3.Connection], T], *, lasting: bool = False) -> asyncio.Future[T]:
        """Run `function` on the connection's thread, after all that was asked for before.

        Must be called on the event loop that awaits it.

        Args:
            function: What to run.
            lasting: Whether it will be run in any case. Else cancelling the future before its turn withdraws it.

        Raises:
            ClosedError: `close` was called.
            UnavailableError: This is a forked process.
        """
        held = self._held
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = Lasting(loop=loop) if lasting else loop.create_future()
        return self._enqueue(lambda: function(held.get()), loop, future)

    def close(self) -> asyncio.Future[None] | None:
        """Close the connection after all that was asked for before; None if that is under way."""
        if not self._take_end():
            return None
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        work = _Work(self._held.close, loop, done, END)
        self._queue.put_nowait((None, work))
        return done

    def close_soon(self) -> None:
        """`close` for those who cannot await."""
        if self._take_end():
            held = self._held

            def closed() -> object:
                with SQLITE:
                    held.close()
                return END

            self._queue.put_nowait((None, closed))

    def join(self, timeout: float) -> None:
        """Block until the thread has ended, at most `timeout` seconds."""
        if self._is_here() and self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def __del__(self) -> None:
        self.close_soon()

    def _enqueue(
        self, function: Callable[[], T], loop: asyncio.AbstractEventLoop, future: asyncio.Future[T]
    ) -> asyncio.Future[T]:
        if not self._is_here():
            raise UnavailableError(
                "this store was opened before a fork, and its connections stayed with the parent process",
                hint="Make a new one with db(...) in the child",
                passing=False,
            )
        work = _Work(function, loop, future)
        with self._guard:
            if self._ending:  # behind the end nothing would ever be run
                raise ClosedError
            self._queue.put_nowait((None, work))
        return future

    def _is_here(self) -> bool:
        return self._pid == os.getpid()

    def _take_end(self) -> bool:
        if not self._is_here():  # there the guard may be held for ever, by a thread that was not forked
            return False
        with self._guard:
            mine, self._ending = not self._ending, True
            return mine


class _Held:
    """The connection, apart from `ConnectionThread`: what the thread refers to must not keep that alive."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, parts: bool) -> None:
        self._connect = connect
        self._parts = parts
        self._connection: sqlite3.Connection | None = None
        self._is_open = False

    def open(self) -> sqlite3.Connection:
        if self._connection is None:
            SQLITE.connecting(self)
            self._connection = self._connect()
        self._is_open = True
        return self._connection

    def get(self) -> sqlite3.Connection:
        if not self._is_open:
            raise ClosedError("this store is not open")
        return self._connection or self.open()

    def part(self) -> None:
        if self._parts and self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._is_open = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class _Work(Generic[T]):
    """A function to run once and whom to tell. It forgets both, for the thread remembers its last piece of work."""

    def __init__(
        self,
        function: Callable[[], T],
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[T],
        said: object = None,
    ) -> None:
        self.future = future
        self._function = function
        self._loop = loop
        self._said = said

    def __call__(self) -> object:
        function, future, loop = self._function, self.future, self._loop
        del self._function, self.future, self._loop
        answer(loop, future, partial(_inside, function))()
        return self._said


def _inside(function: Callable[[], T]) -> T:
    with SQLITE:
        return function()
