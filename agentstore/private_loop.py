"""An event loop on a thread of its own, which goes on while its callers' loops stand still.

The thread is a daemon, and so is every thread started from it, because the interpreter joins all others before
``atexit`` runs, and a loop that nobody stopped would hang it there. At exit the loops are ended in good order, after
what `before_loops_end` was given.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from concurrent.futures import Future

    from anyio.from_thread import BlockingPortal

T = TypeVar("T")


class PrivateLoop:
    """An event loop on a daemon thread; started by whoever needs it first.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._next: PrivateLoop | None = None

    def is_here(self) -> bool:
        """Whether this thread is its own."""
        return self._thread is threading.current_thread()

    def free(self) -> PrivateLoop:
        """This loop; or, for a caller on this loop itself, which it is about to block, a further one."""
        with self._guard:
            if not self.is_here():
                return self
            self._next = self._next or PrivateLoop(self._name)
            return self._next

    def portal(self) -> BlockingPortal:
        """The way onto the loop."""
        with self._guard:
            return self._portal or self._start()

    def _start(self) -> BlockingPortal:
        ready = threading.Event()
        thread = threading.Thread(target=self._run, args=(ready,), name=self._name, daemon=True)
        thread.start()
        ready.wait()
        if self._portal is None:
            raise RuntimeError("the private event loop did not start")
        self._thread = thread
        _started.append(self)
        # Now, not at import: what is registered later runs earlier, and no Database may be closed before.
        atexit.register(_end)
        return self._portal

    def _run(self, ready: threading.Event) -> None:
        from anyio.from_thread import BlockingPortal  # noqa: PLC0415  purely async programs never need it

        # Not asyncio.run(): it ends by joining the default executor in a new thread, which cannot start at exit.
        self._loop = loop = asyncio.new_event_loop()
        serving = loop.create_task(self._serve(BlockingPortal, ready))
        try:
            while not serving.done():
                # A task that ends with one of these stops the loop as well; its owner has the error, others go on.
                with contextlib.suppress(SystemExit, KeyboardInterrupt):
                    loop.run_until_complete(serving)
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            self._portal = None  # whatever ended it, the next call starts another
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
            portal, thread, further = self._portal, self._thread, self._next
            self._portal = self._thread = self._next = None
        if further is not None:
            further.stop()
        if portal is not None and thread is not None:
            portal.start_task_soon(portal.stop, True)  # noqa: FBT003  anyio's signature
            thread.join()

    def forget(self) -> None:
        """After a fork: the child has no such thread, and will start its own."""
        if self in _started:
            _started.remove(self)
        self.__init__(self._name)  # type: ignore[misc]

    def start(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine function here; waits for nothing, so it may be called with a lock held, and on this loop.

        (The portal waits until the loop has heard of it, and takes nothing from the loop's own thread, where the
        garbage collector, say, may call.)
        """
        self.portal()
        if self._loop is None:
            raise RuntimeError("the private event loop did not start")
        return asyncio.run_coroutine_threadsafe(function(), self._loop)

    def run(self, function: Callable[[], Awaitable[T]]) -> asyncio.Future[T]:
        """Run a coroutine function here for a caller on another loop; cancelling the future cancels it."""
        caller = asyncio.get_running_loop()
        answer: asyncio.Future[T] = caller.create_future()
        work = self.portal().start_task_soon(function)

        def ended(work: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop was closed: nobody waits any more
                caller.call_soon_threadsafe(_settle, answer, work)

        work.add_done_callback(ended)
        answer.add_done_callback(lambda answer: work.cancel() if answer.cancelled() else None)
        return answer


_started: list[PrivateLoop] = []
_before: list[Callable[[], object]] = []


def before_loops_end(function: Callable[[], object]) -> None:
    """Have a function called when the interpreter ends, while all private loops still run; it may be given again."""
    if function not in _before:
        _before.append(function)


def _end() -> None:
    for function in _before:
        function()
    while _started:
        _started.pop().stop()


def lasting(name: str) -> PrivateLoop:
    """A `PrivateLoop` for the life of the process, and for its forks, which begin with an unstarted one."""
    loop = PrivateLoop(name)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=loop.forget)
    return loop


def _settle(answer: asyncio.Future[T], work: Future[T]) -> None:
    if answer.done():
        return
    if work.cancelled():
        answer.cancel()
    elif (error := work.exception()) is not None:
        answer.set_exception(error)
    else:
        answer.set_result(work.result())
