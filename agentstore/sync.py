"""The blocking face: a private event loop on a thread of its own, behind an anyio portal.

The thread starts at the first blocking call and serves the whole process, from any thread and also from inside a
running loop (a notebook cell): the caller blocks, the private loop works.

It is a daemon, and so is every thread started from it, because the interpreter joins all others before ``atexit`` runs,
and a loop that nobody stopped would hang it there. At exit ``_stop`` ends the loop in good order.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import queue
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from concurrent.futures import Future

    from anyio.from_thread import BlockingPortal

T = TypeVar("T")
P = ParamSpec("P")


class _PrivateLoop:
    """The process's private event loop; started by whoever needs it first."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None

    def portal(self) -> BlockingPortal:
        """The way onto the loop.

        Raises:
            RuntimeError: The caller is on that loop itself, where blocking would wait for ever.
        """
        if self._thread is threading.current_thread():
            raise RuntimeError(
                "a blocking call from a coroutine that a blocking call runs would never end: await instead"
            )
        with self._guard:
            if self._portal is None:
                self._start()
            if self._portal is None:
                raise RuntimeError("the private event loop did not start")
            return self._portal

    def _start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="agentstore", daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, ready: threading.Event) -> None:
        from anyio.from_thread import BlockingPortal  # noqa: PLC0415  purely async programs never need it

        # Not asyncio.run(): it ends by joining the default executor in a new thread, which cannot start at exit.
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._serve(BlockingPortal, ready))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            ready.set()
            loop.close()

    async def _serve(self, make: type[BlockingPortal], ready: threading.Event) -> None:
        async with make() as portal:
            self._portal = portal
            ready.set()
            await portal.sleep_until_stopped()

    def stop(self) -> None:
        """End the loop, cancelling what still runs there, and its thread."""
        with self._guard:
            portal, thread = self._portal, self._thread
            self._portal = self._thread = None
        if portal is not None and thread is not None:
            portal.start_task_soon(portal.stop, True)  # noqa: FBT003  anyio's signature
            thread.join()

    def forget(self) -> None:
        """After a fork: the child has no such thread, and will start its own."""
        self.__init__()  # type: ignore[misc]


_private = _PrivateLoop()
atexit.register(_private.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_private.forget)


class _Call(Generic[T]):
    """A coroutine function on its way through the private loop."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._portal = _private.portal()
        self._task: asyncio.Task[Any] | None = None
        self._ended = threading.Event()
        self._dropped = False

    def start(self) -> Future[T]:
        """Set it going."""
        return self._portal.start_task_soon(self._run)

    async def _run(self) -> T:
        self._task = asyncio.current_task()
        try:
            if self._dropped:
                raise asyncio.CancelledError
            return await self._function()
        finally:
            self._ended.set()

    def result(self) -> T:
        """Run it; an interrupt (Ctrl-C), wherever it strikes, cancels it and waits until it has cleaned up."""
        try:
            return self.start().result()
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Cancel it and wait until it has ended; nothing happens if it has."""
        if not self._ended.is_set():
            self._portal.start_task_soon(self._cancel)
            self._ended.wait()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # interrupted before it was handed over: this came first
            self._dropped = True
            self._ended.set()


def run_blocking(function: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function on the private loop and wait for its result."""
    return _Call(function).result()


def blocking(method: Callable[Concatenate[Any, P], Awaitable[T]]) -> Callable[Concatenate[Any, P], T]:
    """The blocking twin of a coroutine method, for a face that keeps the real object in ``_target``."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run_blocking(lambda: method(self._target, *args, **kwargs))

    functools.update_wrapper(call, method)
    return call


def blocking_iterator(
    method: Callable[Concatenate[Any, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[Any, P], Iterator[T]]:
    """The blocking twin of an async generator method, likewise."""

    def iterate(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return iterate_blocking(lambda: method(self._target, *args, **kwargs))

    functools.update_wrapper(iterate, method)
    return iterate


def iterate_blocking(source: Callable[[], AsyncGenerator[T, None]]) -> Iterator[T]:
    """Drive an async generator on the private loop, in one task there, one item at a time.

    Closing or dropping the iterator closes the generator at the ``yield`` where it stands, and waits for that.
    """
    items: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()
    wanted = threading.Event()  # read on the loop only after `go` has told it to look
    go: list[Callable[[], object]] = []

    async def pump() -> None:
        loop, turn = asyncio.get_running_loop(), asyncio.Semaphore(0)
        go.append(functools.partial(loop.call_soon_threadsafe, turn.release))
        try:
            async with aclosing(source()) as generator:
                async for item in generator:
                    wanted.clear()
                    items.put((item,))
                    await turn.acquire()
                    if not wanted.is_set():
                        return
        finally:
            items.put(None)

    call = _Call(pump)
    try:
        future = call.start()
        while (item := items.get()) is not None:
            yield item[0]
            wanted.set()
            go[0]()
    except GeneratorExit:
        go[0]()
        future.result()
        raise
    except BaseException:
        call.cancel()
        raise
    future.result()
