"""The ends of sessions as this process's own turns have left them, so that a next turn need not read them again.

A tail is used only if the session is what it was: its head, which is read each time, has the same last seq (each
append, pop and clear moves it), the same count of messages (pending ones, which have no seq yet, move that) and the
same beginning (a session that was removed and begun anew has another). Models get copies of the messages, so what is
in a tail is what was stored.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .checks import check_message

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from .records import Message, Session

_ROOM = 16 * 2**20  # bytes of text, of all sessions of a Database
_LARGE = 2**20  # bytes from which a tail is not kept: what is read again is little beside the model's time
_OWN = 200  # bytes that a message takes beside its text


@dataclass(frozen=True, slots=True)
class _Tail:
    created_at: datetime
    last_seq: int
    count: int
    messages: list[Message]
    size: int


class Tails:
    """The tails of the sessions used last, for any thread."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._tails: OrderedDict[str, _Tail] = OrderedDict()
        self._size = 0

    def newest(self, head: Session, limit: int) -> list[Message] | None:
        """The session's newest messages, oldest first; None if they must be read.

        Args:
            head: The session as it is.
            limit: How many.
        """
        with self._guard:
            tail = self._tails.get(head.id)
        if tail is None or (tail.created_at, tail.last_seq, tail.count) != (
            head.created_at,
            head.last_seq,
            head.message_count,
        ):
            return None
        if len(tail.messages) < min(limit, tail.count):
            return None
        return tail.messages[-limit:]

    def keep(self, head: Session, messages: Sequence[Message], turn: Sequence[Message], limit: int) -> None:
        """Keep a tail, unless somebody else has written to the session meanwhile.

        Args:
            head: The session as it was when `messages` were read, or before that.
            messages: Its newest then.
            turn: A turn as stored since, by this process, or in part before.
            limit: The most to keep.
        """
        added = [message for message in turn if message.seq is None or message.seq > head.last_seq]
        last_seq = head.last_seq + len(added)
        if [message.seq for message in added] != list(range(head.last_seq + 1, last_seq + 1)):
            return  # something came between, or has no seq yet
        if any(message.seq is None for message in messages):
            return
        kept = [*messages, *added][-limit:]
        size = sum(map(_size, kept))
        if size <= _LARGE:
            self._put(head.id, _Tail(head.created_at, last_seq, head.message_count + len(added), kept, size))

    def _put(self, session_id: str, tail: _Tail) -> None:
        with self._guard:
            before = self._tails.pop(session_id, None)
            self._size += tail.size - (before.size if before is not None else 0)
            self._tails[session_id] = tail
            while self._size > _ROOM:
                self._size -= self._tails.popitem(last=False)[1].size


def _size(message: Message) -> int:
    plain = isinstance(message.content, str) and not message.tool_calls and not message.metadata
    return _OWN + (len(message.content) if plain else check_message(message))
