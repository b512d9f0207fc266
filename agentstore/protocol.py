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
functions of `agentstore.rules`; the operations themselves are described in `agentstore.operations`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, runtime_checkable

from .errors import AgentstoreError, UnavailableError
from .operations import (
    KEEP,
    Append,
    Change,
    DeleteKeys,
    Expire,
    Find,
    GetItems,
    Head,
    Increment,
    Keep,
    Listing,
    Mark,
    Read,
    Scan,
    SetItems,
    StateOp,
    new_append,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .findings import Finding
    from .records import Message, Page, Session, StateItem
    from .stats import PoolStats

__all__ = [
    "KEEP",
    "Append",
    "Backend",
    "Change",
    "ConversationStore",
    "DeleteKeys",
    "Expire",
    "Find",
    "GetItems",
    "Head",
    "Increment",
    "Keep",
    "LaggingError",
    "Listing",
    "Mark",
    "Outcome",
    "Read",
    "Replicable",
    "Scan",
    "SetItems",
    "StateOp",
    "StateStore",
    "Store",
    "answered",
    "new_append",
]

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
