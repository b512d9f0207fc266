"""The rules of the store as plain functions: what an operation means, given what is stored.

A driver reads what an operation touches, asks here, and writes down the answer, all in one transaction. So the
guarantees (order, once, ownership, expiry, versions) are spelt once for all backends.
"""

from __future__ import annotations

import base64
import json
import operator
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from . import codec
from .checks import check_id, check_value
from .errors import (
    AccessDeniedError,
    AgentstoreError,
    ConflictError,
    InvalidInputError,
    SessionNotFoundError,
)
from .protocol import KEEP, Append, Change, DeleteKeys, Expire, Increment, SetItems, StateOp
from .records import Message, Page, Session, StateItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta

    from .protocol import Outcome

_FIRST_SURROGATE, _PAST_SURROGATES = 0xD800, 0xE000

In = TypeVar("In")
Out = TypeVar("Out")


def each(batch: Iterable[In], answer: Callable[[In], Out]) -> list[Outcome[Out]]:
    """An outcome for each operation: its answer, or the error that it alone met."""
    outcomes: list[Outcome[Out]] = []
    for op in batch:
        try:
            outcomes.append(answer(op))
        except AgentstoreError as error:
            outcomes.append(error)
    return outcomes


# --- sessions ---------------------------------------------------------------------------------------------------


def is_live(expires_at: datetime | None, now: datetime) -> bool:
    """Whether something with this expiry is visible."""
    return expires_at is None or now < expires_at


def check_owner(session: Session, user_id: str | None) -> None:
    """Let the owner pass, and a caller who gives no user; all may pass where there is no owner.

    Raises:
        AccessDeniedError: It is somebody else's.
    """
    if user_id is not None and session.user_id is not None and session.user_id != user_id:
        raise AccessDeniedError(f"session {session.id!r} belongs to another user than {user_id!r}")


def visible(session: Session | None, user_id: str | None, now: datetime) -> Session | None:
    """The session if it is there and has not expired.

    Raises:
        AccessDeniedError: It is somebody else's.
    """
    if session is None or not is_live(session.expires_at, now):
        return None
    check_owner(session, user_id)
    return session


def touched(session: Session, now: datetime, **changes: Any) -> Session:
    """The session after an activity: `updated_at` never steps back, and the expiry slides with it."""
    updated_at = max(now, session.updated_at)
    ttl: timedelta | None = changes.pop("ttl") if "ttl" in changes else ttl_of(session)
    return replace(session, updated_at=updated_at, expires_at=updated_at + ttl if ttl else None, **changes)


def ttl_of(session: Session) -> timedelta | None:
    """The session's time to live, which is the distance between its two times."""
    return session.expires_at - session.updated_at if session.expires_at else None


def changed(session: Session | None, change: Change, now: datetime) -> Session:
    """The session after `change`.

    Raises:
        SessionNotFoundError: There is none.
        AccessDeniedError: It is somebody else's.
    """
    current = visible(session, change.user_id, now)
    if current is None:
        raise SessionNotFoundError(f"there is no session {change.session_id!r}")
    changes = {name: value for name in ("title", "metadata", "ttl") if (value := getattr(change, name)) is not KEEP}
    return touched(current, now, **changes)


def shortened(session: Session, removed: int, now: datetime) -> Session:
    """The session after a pop or clear of `removed` messages, which consumes a seq."""
    return touched(session, now, message_count=session.message_count - removed, last_seq=session.last_seq + 1)


@dataclass(slots=True)
class Stored:
    """What a store holds of a session id.

    Attributes:
        session: The session, expired or not; None if there is none.
        last_seq: The last seq ever given under this id: it outlives the session.
        messages: Those of its messages that the operations at hand name, by id.
    """

    session: Session | None = None
    last_seq: int = 0
    messages: dict[str, Message] = field(default_factory=dict)


@dataclass(slots=True)
class Written:
    """What a driver has to write for one session after a batch of appends.

    Attributes:
        session: The new head.
        messages: What is to be added, with seqs, in order.
        wipe: An expired session stood here: its messages go first.
    """

    session: Session
    messages: list[Message] = field(default_factory=list)
    wipe: bool = False


def plan_appends(
    batch: Sequence[Append], stored: Mapping[str, Stored], now: datetime
) -> tuple[list[Outcome[list[Message]]], dict[str, Written]]:
    """What a batch of appends comes to.

    Args:
        batch: The operations, in order.
        stored: For each session id in the batch what is there, with the messages whose ids the batch names.
            It is used up: do not use it afterwards.
        now: The driver's time.

    Returns:
        An outcome for each operation, and what to write for each session that changes.
    """
    written: dict[str, Written] = {}
    return each(batch, lambda op: _append(op, stored[op.session_id], written, now)), written


def _append(op: Append, here: Stored, written: dict[str, Written], now: datetime) -> list[Message]:
    session = visible(here.session, op.user_id, now)
    known = here.messages if session else {}
    fresh = [message for message in op.messages if message.id not in known]
    if fresh or not op.messages:  # a retry of what is stored whole succeeds, whatever came since
        _check_expected(op, session)
    if not fresh and op.messages and session:
        return [known[message.id] for message in op.messages]

    wipe = session is None and here.session is not None
    if session is None:
        session = Session(op.session_id, op.user_id, op.agent, created_at=now, updated_at=now, last_seq=here.last_seq)
        session = touched(session, now, ttl=op.ttl or op.default_ttl)
        here.messages = known = {}
    first = here.last_seq + 1
    added = [replace(message, seq=first + index) for index, message in enumerate(fresh)]
    here.last_seq += len(added)
    here.session = session = touched(
        session,
        now,
        metadata={**session.metadata, **op.metadata} if op.metadata else session.metadata,
        message_count=session.message_count + len(added),
        last_seq=here.last_seq,
        ttl=op.ttl or ttl_of(session),
    )
    known.update((message.id, message) for message in added)

    entry = written.setdefault(op.session_id, Written(session))
    if wipe:
        entry.wipe, entry.messages = True, []
    entry.session = session
    entry.messages += added
    return [known[message.id] for message in op.messages]


def _check_expected(op: Append, session: Session | None) -> None:
    last_seq = session.last_seq if session else 0
    if op.expected_seq is not None and op.expected_seq != last_seq:
        raise ConflictError(
            f"session {op.session_id!r} is at seq {last_seq}, not at the expected {op.expected_seq}",
            hint="Read what came since, then append again",
        )


# --- listings ---------------------------------------------------------------------------------------------------


def listing_key(session: Session) -> tuple[int, str]:
    """What listings are ordered by."""
    return codec.to_micros(session.updated_at), session.id


def page(found: Sequence[Session], limit: int) -> Page[Session]:
    """A page of `limit` sessions, of which one more was looked for to know whether there are more."""
    items = tuple(found[:limit])
    return Page(items, make_cursor(*listing_key(items[-1])) if len(found) > limit and items else None)


def make_cursor(micros: int, session_id: str) -> str:
    """A place in a listing as one opaque word, fit for a URL."""
    return base64.urlsafe_b64encode(json.dumps([micros, session_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[int, str]:
    """The (updated_at in microseconds, session id) of `make_cursor`.

    Raises:
        InvalidInputError: No listing gave this cursor.
    """
    try:
        micros, session_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        check_id(session_id, "the cursor's session id")
        codec.from_micros(operator.index(micros))  # a time that there is: backends hold no longer ints
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"cursor {cursor!r} is not one that sessions() gave") from error
    return micros, session_id


def prefix_end(prefix: str) -> str | None:
    """The least str, by codepoints, above all that start with `prefix`; None if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code == _FIRST_SURROGATE:  # surrogates are no characters: UTF-8 goes on behind them
            code = _PAST_SURROGATES
        if code <= sys.maxunicode:
            return prefix[:index] + chr(code)
    return None


# --- state ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class StatePlan:
    """What a batch of state operations comes to.

    Attributes:
        items: By (namespace, key), what the batch names: filled by the driver with what is there, expired items
            included, and None for what is not.
        floors: By namespace, the highest version that a removed key had: filled by the driver likewise. New keys
            begin above it, so no version of a key comes twice.
        changed: The (namespace, key) to write, or to delete where `items` now has None.
        raised: The namespaces whose floor is to be written.
    """

    items: dict[tuple[str, str], StateItem | None]
    floors: dict[str, int]
    changed: set[tuple[str, str]] = field(default_factory=set)
    raised: set[str] = field(default_factory=set)

    def apply(self, batch: Sequence[StateOp], now: datetime) -> list[Outcome[int]]:
        """Apply the operations in order; an outcome for each."""
        return each(batch, lambda op: self._apply(op, now))

    def _apply(self, op: StateOp, now: datetime) -> int:
        match op:
            case SetItems():
                return self._set(op, now)
            case DeleteKeys():
                return self._delete(op, now)
            case Increment():
                return self._increment(op, now)
            case Expire():
                return self._expire(op, now)

    def _live(self, namespace: str, key: str, now: datetime) -> StateItem | None:
        item = self.items[namespace, key]
        return item if item is not None and is_live(item.expires_at, now) else None

    def _check_version(self, namespace: str, key: str, expected: int | None, now: datetime) -> None:
        if expected is None:
            return
        item = self._live(namespace, key, now)
        version = item.version if item else 0
        if version != expected:
            raise ConflictError(
                f"key {key!r} is at version {version}, not at the expected {expected}",
                hint="Get it again, then decide",
            )

    def _put(self, namespace: str, key: str, value: Any, expires_at: datetime | None) -> int:
        old = self.items[namespace, key]
        version = (old.version if old else self.floors.get(namespace, 0)) + 1
        self.items[namespace, key] = StateItem(key, value, version, expires_at)
        self.changed.add((namespace, key))
        return version

    def _set(self, op: SetItems, now: datetime) -> int:
        for key in op.items:
            self._check_version(op.namespace, key, op.if_version, now)
        expires_at = now + op.ttl if op.ttl else None
        version = 0
        for key, value in op.items.items():
            version = self._put(op.namespace, key, value, expires_at)
        return version

    def _delete(self, op: DeleteKeys, now: datetime) -> int:
        for key in op.keys:
            self._check_version(op.namespace, key, op.if_version, now)
        count = 0
        for key in op.keys:
            count += self._live(op.namespace, key, now) is not None
            self.remove(op.namespace, key)
        return count

    def remove(self, namespace: str, key: str) -> None:
        """Take a key away, expired or not, and see that its versions stay used."""
        item = self.items[namespace, key]
        if item is None:
            return
        self.items[namespace, key] = None
        self.changed.add((namespace, key))
        if item.version > self.floors.get(namespace, 0):
            self.floors[namespace] = item.version
            self.raised.add(namespace)

    def _increment(self, op: Increment, now: datetime) -> int:
        item = self._live(op.namespace, op.key, now)
        value = item.value if item else 0
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInputError(f"key {op.key!r} holds a {type(value).__name__}: only an int can be incremented")
        total: int = value + op.by
        check_value(total)
        self._put(op.namespace, op.key, total, item.expires_at if item else None)
        return total

    def _expire(self, op: Expire, now: datetime) -> int:
        item = self._live(op.namespace, op.key, now)
        if item is None:
            return 0
        self._put(op.namespace, op.key, item.value, now + op.ttl if op.ttl else None)
        return 1


def named_keys(batch: Iterable[StateOp]) -> list[tuple[str, str]]:
    """The distinct (namespace, key) that a batch names, sorted: the order in which to lock them."""
    names: set[tuple[str, str]] = set()
    for op in batch:
        match op:
            case SetItems():
                names.update((op.namespace, key) for key in op.items)
            case DeleteKeys():
                names.update((op.namespace, key) for key in op.keys)
            case Increment() | Expire():
                names.add((op.namespace, op.key))
    return sorted(names)
