"""What asyncio lacks: a mutex across loops, waiting that cannot be cut short, threads that outlive the main one."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from concurrent.futures import Executor, Future
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

_Work: TypeAlias = "Callable[[], Callable[[], None]]"
"""Does the work, and gives what is to be called to tell whoever waits for it."""


class CrossLoopLock:
    """Like `asyncio.Lock`, first come first served, but its users may run on different event loops.

    ``asyncio.Lock`` binds itself to one loop, and ``threading.Lock`` would block the loop that waits for it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions only, never across an await
        self._owner: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def needs(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a newcomer could only get the lock after `loop` has run on."""
        with self._guard:
            return self._owner is loop or any(waiter.get_loop() is loop for waiter in self._waiting)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        with self._guard:
            if self._owner is None or self._owner.is_closed():
                self._owner = loop
                return self
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            with self._guard:
                handed_over = waiter not in self._waiting
                if not handed_over:
                    self._waiting.remove(waiter)
            if handed_over:
                self._hand_over()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._hand_over()

    def _hand_over(self) -> None:
        with self._guard:
            self._owner = None
            while self._waiting:
                waiter = self._waiting.popleft()
                loop = waiter.get_loop()
                try:
                    loop.call_soon_threadsafe(_wake, waiter)
                except RuntimeError:  # its loop was closed while it waited
                    continue
                self._owner = loop
                return


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


async def ended(future: asyncio.Future[T]) -> None:
    """Wait for `future`, however often we are cancelled meanwhile; its result is not our concern."""
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            continue


LATE = "agentstore: too late"
"""The message of a cancellation that is not waited for: nobody waits any longer for what is in flight."""


class Lasting(asyncio.Future[T]):
    """A future that no cancellation but `LATE` ends: the task that awaits it is cancelled when it is done."""

    def cancel(self, msg: Any = None) -> bool:
        """Whether it is over; else the task remembers that it was to be cancelled."""
        return super().cancel(msg) if msg is LATE else False


async def uncancelled(future: asyncio.Future[T]) -> T:
    """The future's result; if we are cancelled meanwhile, the cancellation goes on when the future is done (or `LATE`).

    For the one await in which a driver has handed its work over and can no longer take it back. `outcome_despite`
    finds the result with whoever has others to tell it to.
    """
    try:  # a `Lasting` future costs a tenth of a shield, and a shield half of `asyncio.wait`
        return await (future if isinstance(future, Lasting) else asyncio.shield(future))
    except asyncio.CancelledError as error:
        cancellation = error
    while not future.done() and LATE not in cancellation.args:
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancellation = error
    # The very error must go on: asyncio.timeout() and anyio know their own cancellations by it.
    cancellation.done_despite = future  # type: ignore[attr-defined]
    raise cancellation


def outcome_despite(cancellation: asyncio.CancelledError) -> asyncio.Future[Any] | None:
    """The future that `uncancelled` waited for before it let this cancellation go on; None if it was another's."""
    return getattr(cancellation, "done_despite", None)


def answer_despite(cancellation: asyncio.CancelledError, answer: Callable[[Any], Any]) -> None:
    """Let what `outcome_despite` finds be what `answer` makes of it: for a layer that translates a driver's answers."""
    done = outcome_despite(cancellation)
    if done is None or done.cancelled() or done.exception() is not None:
        return
    answered = done.get_loop().create_future()
    answered.set_result(answer(done.result()))
    cancellation.done_despite = answered  # type: ignore[attr-defined]


class DaemonExecutor(Executor):
    """Runs functions on up to `size` daemon threads, started as they are needed.

    ``ThreadPoolExecutor`` refuses work from the moment the main thread ends, while threads of the user may still be
    writing; ours works until the interpreter is gone.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._guard = threading.Lock()
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._shut = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run `function` on a thread.

        Raises:
            RuntimeError: `shutdown` was called.
        """
        future: Future[T] = Future()
        self._put(partial(_carry_out, future, partial(function, *args, **kwargs)))
        return future

    def _put(self, work: _Work) -> None:
        with self._guard:
            if self._shut:
                raise RuntimeError(f"{self._name} was shut down")
            self._work.put(work)
            if not self._idle.acquire(blocking=False) and len(self._threads) < self._size:
                self._add_thread()
            own = None if self._threads else self._work.get()
        if own is not None:
            own()()

    def call(self, function: Callable[[], T], *, lasting: bool = False) -> asyncio.Future[T]:
        """Run `function` on a thread for the running loop, in two thirds of the time of its ``run_in_executor``.

        Args:
            function: What to run.
            lasting: Whether it will be run in any case. Else cancelling the future before its turn withdraws it.

        Raises:
            RuntimeError: `shutdown` was called.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = Lasting(loop=loop) if lasting else loop.create_future()
        self._put(partial(answer, loop, future, function))
        return future

    def _add_thread(self) -> None:
        """One thread more, unless the interpreter is ending and starts none: then those that are there do the work.

        (Python 3.12 and newer; where there is none the caller does it. Nothing is lost, which matters more then.)
        """
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return
        self._threads.append(thread)

    def _run(self) -> None:
        work = self._work.get()
        while work is not None:
            tell = work()
            del work  # it would keep its arguments alive while this thread idles
            try:
                work = self._work.get_nowait()
            except queue.Empty:
                self._idle.release()  # before whoever waits can ask for more, or that would get a thread of its own
                tell()
                del tell
                work = self._work.get()
            else:
                tell()

    def forget(self) -> None:
        """After a fork: the child has none of the threads, and starts its own."""
        self.__init__(self._size, self._name)  # type: ignore[misc]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Finish what was submitted, and end the threads."""
        if cancel_futures:
            raise NotImplementedError("what was submitted is always carried out")
        with self._guard:
            if not self._shut:
                self._shut = True
                for _ in self._threads:
                    self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()


def _carry_out(future: Future[T], function: Callable[[], T]) -> Callable[[], None]:
    if not future.set_running_or_notify_cancel():
        return _nobody
    try:
        return partial(future.set_result, function())
    except BaseException as error:  # noqa: BLE001  it belongs to whoever waits for the future
        return partial(future.set_exception, error)


def answer(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], function: Callable[[], T]) -> Callable[[], None]:
    """Run `function` on a thread, unless nobody waits on that loop any more; what is to be called to tell who does."""
    if future.cancelled():
        return _nobody
    try:
        return partial(_tell, loop, _set_result, future, function())
    except BaseException as error:  # noqa: BLE001  as above
        return partial(_tell, loop, _set_exception, future, error)


def _nobody() -> None:
    """Tell nobody."""


def _tell(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
        loop.call_soon_threadsafe(settle, *args)


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
