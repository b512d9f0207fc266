"""Those who wait until something has become of the writes before them, on any event loop."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from agentstore.errors import AgentstoreError


@dataclass(slots=True, eq=False)
class _Waiter:
    reached: Callable[[], bool]
    turn: asyncio.Future[None]
    patient: bool


class Waiters:
    """Wakes callers when what they wait for has come.

    Args:
        guard: Held while conditions are looked at.
        deadline: Seconds that anybody waits at most.
    """

    def __init__(self, guard: threading.RLock, deadline: float) -> None:
        self._guard = guard
        self._deadline = deadline
        self._waiting: list[_Waiter] = []

    async def until(
        self, reached: Callable[[], bool], what: str, *, patient: bool = False, patience: float | None = None
    ) -> None:
        """Wait until `reached()` holds.

        Args:
            reached: Looked at under the guard.
            what: What is waited for, for the message.
            patient: Wait on when a try to reach the backend has failed.
            patience: Seconds; the deadline by default.

        Raises:
            UnavailableError: It took too long, or (unless `patient`) the backend could not be reached.
        """
        patience = self._deadline if patience is None else patience
        with self._guard:
            if reached():
                return
            waiter = _Waiter(reached, asyncio.get_running_loop().create_future(), patient)
            self._waiting.append(waiter)
        try:
            async with asyncio.timeout(patience):
                await waiter.turn
        except TimeoutError as error:
            raise UnavailableError(
                f"{what} were not stored within {patience:g} s", hint="They are kept, and tried again"
            ) from error
        finally:
            with self._guard, contextlib.suppress(ValueError):  # it was woken
                self._waiting.remove(waiter)

    def look(self) -> None:
        """Something has changed; the guard is held."""
        for waiter in [waiter for waiter in self._waiting if waiter.reached()]:
            self._waiting.remove(waiter)
            _end(waiter, None)

    def fail(self, error: AgentstoreError) -> None:
        """The backend could not be reached; the guard is held."""
        for waiter in [waiter for waiter in self._waiting if not waiter.patient]:
            self._waiting.remove(waiter)
            _end(waiter, error)


def _end(waiter: _Waiter, error: AgentstoreError | None) -> None:
    with contextlib.suppress(RuntimeError):  # its loop was closed while it waited
        waiter.turn.get_loop().call_soon_threadsafe(_settle, waiter.turn, error)


def _settle(turn: asyncio.Future[None], error: AgentstoreError | None) -> None:
    if turn.done():
        return
    if error is None:
        turn.set_result(None)
        return
    ours = UnavailableError(f"writes before this call are still pending: {error}")
    ours.__cause__ = error
    turn.set_exception(ours)
