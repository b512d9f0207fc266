"""What this process wrote last, and the server's clock: enough to plan most appends without asking first.

Such a plan is a guess. The script that carries it out compares the session's version and looks for the message ids as
always, and refuses a time that is not the server's; then the append is planned again from what is there. So a guess
can cost a round trip, and saves one wherever nobody else writes to the session.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from agentstore import rules
from agentstore.records import copy_json

from . import records

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from agentstore.protocol import Append
    from agentstore.records import Session

_MOST = 4096  # sessions
_LARGE = 4096  # characters of a head: longer ones are not kept here
_SHARED = 1.0  # seconds for which a session that somebody else wrote to is not guessed
_HEARD = 5.0  # seconds for which the clock runs by itself
_SURELY = timedelta(seconds=2)  # a session that expires sooner is not guessed

_STEP = timedelta(microseconds=1)


class Known(NamedTuple):
    """A session as it was written last: with the version of its head, and the text of its marks."""

    session: Session
    version: str
    marks: str | bytes


class Recent:
    """Sessions as they were written last, for any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._sessions: dict[str, Known] = {}
        self._shared: dict[str, float] = {}

    def forget(self, session_id: str) -> None:
        """It is being written, or gone."""
        with self._guard:
            self._sessions.pop(session_id, None)

    def put(self, session: Session, version: str, marks: str | bytes, size: int) -> None:
        """It was written so, with this version and these marks. `size` is the length of its head."""
        if session.metadata:  # the caller has parts of it, and may change them
            session = replace(session, metadata=copy_json(session.metadata))
        with self._guard:
            self._sessions.pop(session.id, None)
            if size <= _LARGE and self._shared.get(session.id, 0) < time.monotonic():
                self._sessions[session.id] = Known(session, version, marks)
                if len(self._sessions) > _MOST:
                    del self._sessions[next(iter(self._sessions))]

    def shared(self, session_id: str) -> None:
        """Somebody else writes to it."""
        now = time.monotonic()
        with self._guard:
            self._sessions.pop(session_id, None)
            for known in [known for known, until in self._shared.items() if until < now]:
                del self._shared[known]
            self._shared[session_id] = now + _SHARED

    def guess(self, ops: Iterable[Append], now: datetime) -> dict[str, Known]:
        """The sessions of these appends that need not be asked for, with versions: only a race makes them fail."""
        found: dict[str, Known] = {}
        barred: set[str] = set()
        for op in ops:
            known = self._sessions.get(op.session_id)
            if known is not None and _simple(op, known, now):
                found[op.session_id] = known
            else:
                barred.add(op.session_id)
        return {session_id: known for session_id, known in found.items() if session_id not in barred}


def _simple(op: Append, known: Known, now: datetime) -> bool:
    session = known.session
    return (
        op.expected_seq is None
        and op.metadata is None
        and (op.user_id is None or session.user_id in {None, op.user_id})
        and (session.expires_at is None or session.expires_at > now + _SURELY)
        and not (op.mark and rules.passed(records.marks_of(f"session {session.id!r}", known.marks), op.mark))
    )


class Clock:
    """A server's clock between two answers that told its time; it is late by the way of an answer, and never early."""

    def __init__(self) -> None:
        self._heard: tuple[datetime, float] | None = None
        self._last: datetime | None = None

    def heard(self, moment: datetime) -> None:
        """The server has just said that it was `moment`."""
        here = time.monotonic()
        running = self._running(here)
        if running is None or moment > running or running - moment > _SURELY:
            self._heard = (moment, here)

    def now(self) -> datetime | None:
        """The server's time, each a later one; None if it must be asked."""
        running = self._running(time.monotonic())
        if running is not None and self._last is not None and running <= self._last < running + _SURELY:
            running = self._last + _STEP
        self._last = running or self._last
        return running

    def _running(self, here: float) -> datetime | None:
        if self._heard is None or here - self._heard[1] > _HEARD:
            return None
        return self._heard[0] + timedelta(seconds=here - self._heard[1])
