"""The operations that a store is handed; `agentstore.protocol` says what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .checks import MAX_BYTES
from .making import maker

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from .records import Message


class Keep:
    """The type of `KEEP`: leave a field as it is, where None means to empty it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "KEEP"

    def __reduce__(self) -> str:
        return "KEEP"  # a copy is the very same


KEEP = Keep()


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a write stands in the queue that it waited in.

    It is stored with what it writes, so that a write which comes a second time, from the journal of a process that died
    before it heard that the first had succeeded, changes nothing, whatever others have done since. See `rules.passed`.

    Attributes:
        queue: The queue's id.
        position: Rises from write to write within the queue.
    """

    queue: str
    position: int


@dataclass(frozen=True, slots=True)
class Append:
    """Messages for one session, stored together or not at all.

    Attributes:
        session_id: Created if it is not there, or has expired.
        messages: With distinct ids; their ``seq`` says nothing yet. None at all creates or touches the session.
        user_id: Who asks; becomes the owner of a session created here.
        agent: Set on a session created here.
        metadata: Merged into the session's at the top level.
        ttl: The session's time to live from now on; None keeps it.
        default_ttl: The TTL of a session created here, where ``ttl`` is None.
        expected_seq: What the session's ``last_seq`` must be; 0 also means that there is none.
        size: Bytes of the messages and the metadata, by which groups and queues are bounded.
        mark: If it has waited in a queue: its place there.
        metadata_room: Bytes that the session's metadata may come to: more than a caller may give where a layer seals
            them.
    """

    session_id: str
    messages: tuple[Message, ...] = ()
    user_id: str | None = None
    agent: str | None = None
    metadata: Mapping[str, Any] | None = None
    ttl: timedelta | None = None
    default_ttl: timedelta | None = None
    expected_seq: int | None = None
    size: int = 0
    mark: Mark | None = None
    metadata_room: int = MAX_BYTES


new_append = maker(Append)
"""An Append of all its eleven values: in a third of the time."""


@dataclass(frozen=True, slots=True)
class Read:
    """Messages of one session, oldest first; bounds are exclusive seqs.

    With ``limit``: the newest so many, below ``before`` if given; but with ``after`` alone the oldest above it.
    ``exact`` is for those who go by more than what this process has written: no replica answers, here and below.
    """

    session_id: str
    user_id: str | None = None
    limit: int | None = None
    before: int | None = None
    after: int | None = None
    exact: bool = False

    @property
    def oldest_first(self) -> bool:
        """Whether ``limit`` counts from the old end."""
        return self.after is not None and self.before is None


@dataclass(frozen=True, slots=True)
class Head:
    """Asks for a session without its messages."""

    session_id: str
    user_id: str | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Find:
    """Asks which of some message ids a session holds."""

    session_id: str
    user_id: str | None = None
    ids: tuple[str, ...] = ()
    exact: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """Sessions by (updated_at, id), newest first; ``cursor`` is a former page's ``next_cursor``."""

    user_id: str | None = None
    agent: str | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """New values for a session's fields; `KEEP` leaves one alone, None empties it."""

    session_id: str
    user_id: str | None = None
    title: str | Keep | None = KEEP
    metadata: Mapping[str, Any] | Keep = KEEP
    ttl: timedelta | Keep | None = KEEP


@dataclass(frozen=True, slots=True)
class SetItems:
    """Sets keys of a namespace together; its outcome is the new version (of the last key).

    ``if_version`` goes with one key: its version now, 0 for a key that is not there. ``ttl`` None is for ever, and
    `KEEP`, which goes with an ``if_version``, leaves the expiry of a key that is there as it is. ``size`` is the bytes
    of the values, by which groups are bounded. ``mark`` is as that of an `Append`, kept for the namespace.
    """

    namespace: str
    items: Mapping[str, Any]
    ttl: timedelta | Keep | None = None
    if_version: int | None = None
    size: int = 0
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class DeleteKeys:
    """Deletes keys; its outcome is how many were there. ``if_version`` goes with one key."""

    namespace: str
    keys: tuple[str, ...]
    if_version: int | None = None


@dataclass(frozen=True, slots=True)
class Increment:
    """Adds to an integer that begins at 0; its outcome is the sum."""

    namespace: str
    key: str
    by: int = 1


@dataclass(frozen=True, slots=True)
class Expire:
    """Sets a key's TTL (None: for ever); its outcome is 1, or 0 if there is no such key."""

    namespace: str
    key: str
    ttl: timedelta | None


StateOp: TypeAlias = SetItems | DeleteKeys | Increment | Expire


@dataclass(frozen=True, slots=True)
class GetItems:
    """Asks for keys of one namespace."""

    namespace: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scan:
    """Items whose key starts with ``prefix``, in order of codepoints; ``after`` is exclusive, in scan direction."""

    namespace: str
    prefix: str = ""
    limit: int | None = None
    after: str | None = None
    reverse: bool = False
