"""What this process wrote last, and the server's clock: enough to plan most writes without asking first.

Such a plan is a guess. The write that carries it out compares the version of what it replaces and looks for the message
ids as always, and refuses a time that is not the server's; then it is planned again from what is there. So a guess can
cost a round trip, and saves one wherever nobody else writes there: half the time of a turn on PostgreSQL and MariaDB.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

from agentstore import codec, rules
from agentstore.protocol import SetItems
from agentstore.records import StateItem, copy_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from agentstore.protocol import Append, StateOp
    from agentstore.records import Session

Name: TypeAlias = tuple[str, str]
"""Namespace and key of an item."""

_MOST = 4096  # sessions, and items
_LARGE = 4096  # characters of title, metadata and marks: a session that has more is not kept here
_SHARED = 1.0  # seconds for which a session that somebody else wrote to is not guessed
_HEARD = 5.0  # seconds for which the clock runs by itself
_SURELY = timedelta(seconds=2)  # a session that expires sooner is not guessed

_STEP = timedelta(microseconds=1)


V = TypeVar("V")


class Known(NamedTuple, Generic[V]):
    """A session as it was written last: with what the driver knows its version by, and the text of its marks."""

    session: Session
    version: V
    marks: str | bytes


class Recent(Generic[V]):
    """Sessions as they were written last, for any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._sessions: dict[str, Known[V]] = {}
        self._shared: dict[str, float] = {}

    def forget(self, session_id: str) -> None:
        """It is being written, or gone."""
        with self._guard:
            self._sessions.pop(session_id, None)

    def put(self, session: Session, version: V, marks: str | bytes) -> None:
        """It was written so, with this version and these marks."""
        size = len(session.title or "") + len(marks)
        if session.metadata:  # the caller has parts of it, and may change them
            session = replace(session, metadata=copy_json(session.metadata))
            size += len(codec.dumps(session.metadata))
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

    def guess(self, ops: Iterable[Append], now: datetime) -> dict[str, Known[V]]:
        """The sessions of these appends that need not be asked for, with versions: only a race makes them fail."""
        found: dict[str, Known[V]] = {}
        barred: set[str] = set()
        for op in ops:
            known = self._sessions.get(op.session_id)
            if known is not None and _simple(op, known, now):
                found[op.session_id] = known
            else:
                barred.add(op.session_id)
        return {session_id: known for session_id, known in found.items() if session_id not in barred}


def _simple(op: Append, known: Known[Any], now: datetime) -> bool:
    session = known.session
    return (
        bool(op.messages)
        and op.expected_seq is None
        and op.metadata is None
        and (op.user_id is None or session.user_id in {None, op.user_id})
        and (session.expires_at is None or session.expires_at > now + _SURELY)
        and not (op.mark and rules.passed(rules.marks_from_text(known.marks or None), op.mark))
    )


class RecentItems:
    """Versions of state items as they were written last, for any thread; of those that never expire."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._versions: dict[Name, int] = {}
        self._shared: dict[str, float] = {}

    def guess(self, batch: Iterable[StateOp]) -> dict[Name, StateItem | None] | None:
        """The items that a batch names, without their values; None if one of them must be asked for.

        Only what sets keys for ever, whatever is there, is planned so: it needs no more than the version before.
        """
        found: dict[Name, StateItem | None] = {}
        versions = self._versions
        for op in batch:
            if not (isinstance(op, SetItems) and op.ttl is None and op.if_version is None and op.mark is None):
                return None
            for key in op.items:
                version = versions.get((op.namespace, key))
                if version is None:
                    return None
                found[op.namespace, key] = StateItem(key, None, version)
        return found

    def written(self, items: Mapping[Name, StateItem | None], missed: Iterable[str] = ()) -> None:
        """These were written, or removed; but in the namespaces `missed` somebody else writes too."""
        now = time.monotonic()
        with self._guard:
            for namespace in missed:
                self._shared[namespace] = now + _SHARED
            for namespace in [namespace for namespace, until in self._shared.items() if until < now]:
                del self._shared[namespace]
            for name, item in items.items():
                self._versions.pop(name, None)
                if item is not None and item.expires_at is None and name[0] not in self._shared:
                    self._versions[name] = item.version
            while len(self._versions) > _MOST:
                del self._versions[next(iter(self._versions))]

    def forget(self, names: Iterable[Name]) -> None:
        """They are being written: who knows what becomes of it."""
        with self._guard:
            for name in names:
                self._versions.pop(name, None)


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
