"""Calling functions that others wrote: sync or async, and whatever they raise."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import AgentstoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_MAX_TEXT = 10_000  # characters of an exception's text


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: also for objects with an async ``__call__``, and partials."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  not a test whether it is callable


async def result_of(function: Callable[..., Any], /, *args: Any, abandon: bool = False, **kwargs: Any) -> Any:
    """What the function gives; a sync one runs in a worker thread.

    Args:
        function: Any callable.
        *args: Its arguments.
        abandon: A thread cannot be stopped: whether to leave it to itself when we are cancelled.
        **kwargs: Its arguments.
    """
    import anyio.to_thread  # noqa: PLC0415  what is async needs no threads

    if is_async(function):
        return await function(*args, **kwargs)
    # Not anyio's 40 threads for all: such a function may wait for another that needs one (an agent as a tool).
    result = await anyio.to_thread.run_sync(
        functools.partial(function, *args, **kwargs), abandon_on_cancel=abandon, limiter=anyio.CapacityLimiter(1)
    )
    return await result if inspect.isawaitable(result) else result


async def replied(reply: Callable[[], Awaitable[T]]) -> T:
    """What a model gives. Its exceptions pass, but a SystemExit of its own, say, must not end our loop.

    Raises:
        AgentstoreError: It ended with such a one.
    """
    try:
        return await reply()
    except BaseException as error:
        if isinstance(error, Exception) or must_pass(error):
            raise
        raise AgentstoreError(f"the model ended with {described(error)}") from error


def must_pass(error: BaseException) -> bool:
    """Whether what a function raised is not its own doing: an interrupt, or that the running task ends."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


def described(error: BaseException) -> str:
    """Kind and text of an exception, also of one whose ``__str__`` fails."""
    try:
        text = str(error)[:_MAX_TEXT]
    except Exception as failure:  # noqa: BLE001  it may raise anything
        text = f"(its text cannot be had: {type(failure).__name__})"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Closing:
    """Closes an iterator at the end, if it can be closed and nobody else is just doing so."""

    def __init__(self, source: Any) -> None:
        self._source = source

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *exc: object) -> None:
        if hasattr(self._source, "aclose") and not getattr(self._source, "ag_running", False):
            await self._source.aclose()
