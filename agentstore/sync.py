"""The blocking face: a private event loop on a thread of its own, behind an anyio portal.

The thread starts at the first blocking call and serves the whole process, from any thread and also from inside a
running loop (a notebook cell): the caller blocks, the private loop works.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar

from .private_loop import PrivateLoop, lasting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
    from concurrent.futures import Future

T = TypeVar("T")
P = ParamSpec("P")


_private = lasting("agentstore")
_current: ContextVar[PrivateLoop] = ContextVar("_current", default=_private)
"""The private loop for which the code at hand runs, on it or on a thread of its."""


class _Call(Generic[T]):
    """A coroutine function on its way through the private loop."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._loop = _current.get().free()
        self._portal = self._loop.portal()
        self._task: asyncio.Task[Any] | None = None
        self._ended = threading.Event()
        self._dropped = False
        self._result: list[T] = []
        self._error: BaseException | None = None

    def start(self) -> Future[None]:
        """Set it going."""
        return self._portal.start_task_soon(self._run)

    async def _run(self) -> None:
        self._task = asyncio.current_task()
        _current.set(self._loop)
        try:
            if not self._dropped:
                self._result.append(await self._function())
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001  the caller's, whatever it is: a SystemExit would end the portal
            self._error = error
        finally:
            self._ended.set()

    def outcome(self, future: Future[None]) -> T:
        """Wait for what `start` gave: the function's result, or what it raised."""
        future.result()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def is_here(self) -> bool:
        """Whether this is the thread on which it runs."""
        return self._loop.is_here()

    def result(self) -> T:
        """Run it; an interrupt (Ctrl-C), wherever it strikes, cancels it and waits until it has cleaned up."""
        try:
            return self.outcome(self.start())
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
            async with contextlib.aclosing(source()) as generator:
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
        if not future.done():  # it is when the interpreter ends: the loop has closed the generator and gone
            go[0]()
            if not call.is_here():  # else the garbage collector has come by on the very thread that must do it
                call.outcome(future)
        raise
    except BaseException:
        call.cancel()
        raise
    call.outcome(future)
