"""What a backend promises: a log per session and a state per namespace.

A driver implements `ConversationStore` and `StateStore`, usually in one class; layers are stores too.

- **Batch first.** The calls that carry the load take many callers' operations and answer with an *outcome* for each:
  a result, or the `AgentstoreError` that this operation alone met. An exception that is *raised* concerns the whole
  batch, of which nothing is then stored (or nobody can know, and a retry is safe: ids are idempotency keys).
- **One order.** Operations of a batch on one session or key take effect in the order given.
- **Checked input.** Ids, sizes and JSON data were checked above (`agentstore.checks`): a driver relies on that.
- **Own time.** A driver reads the clock that its writers share where there is one (a server's), else this process's.
- **Any loop.** A store is one object, used from any thread and event loop at once. What belongs to a loop, a
  connection, comes from `agentstore.pool`, which keeps a pool for each.

The rules that every driver applies (who may read, what an id that is there already means, what has expired) are
functions of `agentstore.rules`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from .checks import MAX_BYTES
from .errors import AgentstoreError, UnavailableError
from .making import maker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

    from .findings import Finding
    from .records import Message, Page, Session, StateItem
    from .stats import PoolStats

T = TypeVar("T")
Outcome: TypeAlias = T | AgentstoreError


def answered(outcome: Outcome[T]) -> T:
    """The result of an operation.

    Raises:
        AgentstoreError: What it met.
    """
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return outcome


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


class Store(Protocol):
    """What conversations and state have in common: a life and its limits."""

    @property
    def lacks(self) -> Mapping[str, str]:
        """Guarantees that this backend cannot give, each with the reason. The contract suite and the docs show them."""

    async def aopen(self) -> None:
        """Make the store ready, creating or migrating what it needs; nothing if it is.

        May be called by several threads and loops at once, and again after it failed. No caller may have to wait for
        another's loop to go on.
        """

    async def aclose(self) -> None:
        """Finish what is in flight and let go of everything; later calls raise `ClosedError`, a later close nothing.

        As `aopen`, it waits for nobody's loop.
        """

    async def ping(self) -> None:
        """Make one round trip; raise `UnavailableError` if there is no answer."""

    def close_at_exit(self) -> None:
        """Let go without awaiting, when the interpreter ends: no thread can be started any more."""

    def pools(self) -> Sequence[PoolStats]:
        """Figures of its connection pools now; a store in this process has none."""

    async def examine(self) -> list[Finding]:
        """What an operator should know of the open store: server, version, schema, whatever weakens "commit"."""


class ConversationStore(Store, Protocol):
    """The log: per session, messages in the order accepted, addressed by seq."""

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        """Store each item whole, durably; messages come back with their seqs, known ones as first stored.

        A session keeps the marks of its appends, in the same atomic step, also when it is removed; `rules` tells what
        they mean.
        """

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        """Messages of many sessions in one round trip; an unknown session gives ``[]``."""

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        """Those of the messages that are there, by id, in one round trip; an unknown session gives ``{}``."""

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        """Many sessions without their messages, in one round trip."""

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        """One page of sessions."""

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        """Remove the newest `count`, give them oldest first, and consume a seq (if any was removed)."""

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        """Remove all messages, consume a seq (if there were any), and say how many there were."""

    async def update(self, change: Change) -> Session:
        """Change a session; `SessionNotFoundError` if there is none."""

    async def delete(self, session_id: str, *, user_id: str | None = None) -> bool:
        """Remove a session. Only its id and last seq stay, so that a session of that id goes on counting."""

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        """Create a session just so, ids, seqs and times included; `ConflictError` if one is there."""

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        """Put other texts in place of a session's, for a new encryption key; False if it has changed meanwhile.

        Title and metadata become those of `session`; of the messages (any part of the session's) content, tool calls,
        tool_call_id, name and metadata become those given, where seq and id agree. Nothing else changes, times
        included. Only if the stored ``updated_at`` still is that of `session`: else nothing is written at all.
        """

    async def purge_sessions(self) -> int:
        """Remove what has expired, as `delete` does; how many sessions that were."""


class StateStore(Store, Protocol):
    """The state: per namespace, an ordered, versioned, expiring map."""

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        """The items that are there, in one round trip."""

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        """Apply each operation whole, durably, in order; a namespace keeps the marks, in the same atomic step."""

    async def scan(self, scan: Scan) -> list[StateItem]:
        """Items in key order."""

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        """Namespaces that hold keys, in order of codepoints, from behind `after`; those of expired keys may be there.

        For maintenance: whoever uses the state knows its namespaces.
        """

    async def purge_state(self) -> int:
        """Remove expired keys; how many there were."""


class Backend(ConversationStore, StateStore, Protocol):
    """A driver: both primitives on one backend."""


class LaggingError(UnavailableError):
    """A replica has not come as far as its reader needs. No caller of a Database sees this: the primary answers."""


@runtime_checkable
class Replicable(Protocol):
    """What a driver has besides whose servers may have read replicas; `layers.replicas` sends reads there."""

    async def position(self) -> str | None:
        """How far this primary has come, in words of its own: behind every write that it has answered so far.

        None where that cannot be known.
        """

    def follow(self, primary: Any, required: Callable[[], str | None]) -> None:
        """Be a replica that only reads; called before the first `aopen`, which then creates and migrates nothing.

        From now on whatever is asked is answered only by a server that has reached the position which ``required()``
        gives at that moment (None: any will do). That counts for each connection by itself: behind one URL there may
        be another server the next time, or the same one, restarted from an earlier state.

        What is asked, `aopen` included, raises `LaggingError` where the server is not as far, or the schema has not
        come yet, and `UnavailableError` where it is no replica now.

        Args:
            primary: Its primary, of this very class.
            required: Tells the position, at once.

        Raises:
            ConfigurationError: It cannot be a replica of that primary: it names another database, say.
        """
