"""What this process knows of the sessions that it writes: whose they are, read once and kept."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import UnavailableError
from agentstore.protocol import Append, Head
from agentstore.records import Session, utcnow
from agentstore.rules import check_owner, is_live, ttl_of

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable
    from datetime import datetime, timedelta

_KEPT = 10_000  # sessions


@dataclass(slots=True)
class Known:
    """One session, as far as a deferred write must know it.

    Attributes:
        there: It is at the backend, or pending.
        owner: Its user; None if it has none, or is not there.
        ttl: Its time to live.
        expires_at: When it becomes invisible, by this process's clock.
        whole: All of it is pending here: the backend has told that it holds nothing.
        guessed: The backend could not tell: it holds until something has been stored.
    """

    there: bool
    owner: str | None = None
    ttl: timedelta | None = None
    expires_at: datetime | None = None
    whole: bool = False
    guessed: bool = False

    def admits(self, user_id: str | None) -> bool:
        """Whether that user may write to it."""
        return not self.there or user_id is None or self.owner is None or self.owner == user_id


class KnownSessions:
    """The sessions written last.

    Args:
        guard: Held while they change.
        blind: Whether a session may be written whose head cannot be read; the backend will judge when it is back.
    """

    def __init__(self, guard: threading.RLock, *, blind: bool) -> None:
        self._guard = guard
        self._blind = blind
        self._sessions: OrderedDict[str, Known] = OrderedDict()

    async def admit(self, op: Append, head: Callable[[Head], Awaitable[Session | None]]) -> None:
        """Let a deferred append pass, as far as this process knows; its first write to a session reads the head.

        Raises:
            AccessDeniedError: The session is somebody else's.
            UnavailableError: The head cannot be read, and nothing takes writes meanwhile.
        """
        before = self._sessions.get(op.session_id)
        known = before
        if before is None or (before.expires_at is not None and not is_live(before.expires_at, utcnow())):
            try:
                known = await self._read(op.session_id, head)
            except UnavailableError:
                if not self._blind:
                    raise
                known = Known(there=False, guessed=True)
        elif not before.admits(op.user_id):  # others may have removed it since, and begun it anew
            with contextlib.suppress(UnavailableError):
                known = await self._read(op.session_id, head)
        with self._guard:
            now = self._sessions.get(op.session_id)
            if known is not None and (now is None or now is before):
                now = self._put(op.session_id, known)
            if now is not None:
                self._note(op, now)

    async def _read(self, session_id: str, head: Callable[[Head], Awaitable[Session | None]]) -> Known:
        session = await head(Head(session_id, exact=True))  # by it is told whether all of it is here
        if session is None:
            return Known(there=False, whole=True)
        return Known(True, session.user_id, ttl_of(session), session.expires_at)  # noqa: FBT003  as the fields stand

    def _put(self, session_id: str, known: Known) -> Known:
        self._sessions.pop(session_id, None)
        while len(self._sessions) >= _KEPT:
            self._sessions.popitem(last=False)
        self._sessions[session_id] = known
        return known

    def _note(self, op: Append, known: Known) -> None:
        if known.there:
            check_owner(Session(op.session_id, known.owner), op.user_id)
        else:
            known.there, known.owner, known.ttl = True, op.user_id, op.default_ttl
        if op.ttl is not None:
            known.ttl = op.ttl
        if known.ttl is not None:
            known.expires_at = utcnow() + known.ttl

    def owned(self, session_id: str, user_id: str | None) -> None:
        """Let a reader of what is pending pass.

        Raises:
            AccessDeniedError: The session is somebody else's.
        """
        known = self._sessions.get(session_id)
        if known is not None:
            check_owner(Session(session_id, known.owner), user_id)

    def is_whole(self, session_id: str) -> bool:
        """Whether all there is of it is pending here."""
        known = self._sessions.get(session_id)
        return known is not None and known.whole

    def stored(self, session_id: str) -> None:
        """The backend holds a part of it now."""
        known = self._sessions.get(session_id)
        if known is None:
            return
        known.whole = False
        if known.guessed:
            self.forget(session_id)

    def forget(self, session_id: str) -> None:
        """It is not what it was: the next write reads its head again."""
        self._sessions.pop(session_id, None)
