"""Whether a backend is known to be down: then a call is not kept waiting for what will not come."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING

from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 2.0  # seconds

_log = logging.getLogger("agentstore")


class Probe:
    """The one call that may see whether the backend is back."""


class Breaker:
    """What all callers of one backend know of it, on whatever loop or thread.

    Closed, it lets everyone through. Open, it lets one call at a time through, after a growing pause, as a `Probe`.

    Args:
        name: The backend, for messages; without password.
        patience: Seconds after which a probe is given up whose end nobody told: its loop may rest for ever.
        clock: Seconds that never step back.
        has_fallback: Writes go on elsewhere while it is open.
        outcome: What becomes of calls while it is open, for the log.

    Attributes:
        is_open: The backend could not be reached, and has not answered since.
        since: When it opened, on the clock (`time.monotonic`); None while it is closed.
        answers: Counts calls that succeeded, roughly: whether any did meanwhile is all that matters.
        error: What the last try met; None while it is closed.
    """

    def __init__(
        self,
        name: str,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        has_fallback: bool = False,
        outcome: str = "calls fail at once",
    ) -> None:
        self._name = name
        self._has_fallback = has_fallback
        self._outcome = outcome
        self._patience = patience
        self._clock = clock
        self._guard = threading.Lock()  # held for a few instructions only, never across an await
        self.is_open = False
        self.since: float | None = None
        self.answers = 0
        self.error: UnavailableError | None = None
        self._pause = _FIRST_PAUSE
        self._next = 0.0  # when the next probe may go
        self._probe: Probe | None = None

    def enter(self) -> Probe | None:
        """The right to see whether the backend is back; say afterwards how it went. None if it is closed.

        Raises:
            UnavailableError: It is open, and not the time for a probe.
        """
        with self._guard:
            if self.since is None:
                return None
            now = self._clock()
            if now >= self._next:
                self._probe, self._next = Probe(), now + self._patience
                return self._probe
            after = "it is being tried now" if self._probe else f"next try in {self._next - now:.1f} s"
            raise UnavailableError(
                f"{self._name} has been unreachable for {now - self.since:.0f} s; {after}", passing=False, unsent=True
            ) from self.error

    def failed(self, error: UnavailableError, probe: Probe | None = None) -> None:
        """A call, or the probe, could not reach the backend."""
        with self._guard:
            opens = not self.is_open
            if not opens and (probe is None or probe is not self._probe):
                return  # that is known
            now = self._clock()
            if opens:
                self.is_open, self.since, self._pause = True, now, _FIRST_PAUSE
            else:
                self._pause = min(2 * self._pause, _LONGEST_PAUSE)
            self.error, self._probe = error, None
            self._next = now + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  to draw processes apart
        if opens:
            level = logging.INFO if self._has_fallback else logging.WARNING  # what takes the writes says so itself
            _log.log(level, "%s is unreachable: until it answers, %s (%s)", self._name, self._outcome, error)

    def answered(self) -> None:
        """The backend is there."""
        self.answers += 1
        with self._guard:
            if self.since is None:
                return
            seconds = self._clock() - self.since
            self.is_open, self.since, self.error, self._probe = False, None, None, None
        _log.info("%s answers again, after %.1f s", self._name, seconds)

    def abandoned(self, probe: Probe) -> None:
        """The probe ended without a finding, cancelled perhaps: another may go at once."""
        with self._guard:
            if self._probe is probe:
                self._probe, self._next = None, self._clock()
