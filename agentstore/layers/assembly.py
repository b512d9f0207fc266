"""One backend of a Database within its layers, with the write-behind queue before it where there is one."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentstore import telemetry
from agentstore.drivers import registry
from agentstore.errors import ConfigurationError
from agentstore.options import PoolOptions, QueueOptions, RetryOptions
from agentstore.protocol import Replicable
from agentstore.queue.bounds import Bounds
from agentstore.queue.group import Tally
from agentstore.queue.journal import Folder
from agentstore.queue.life import Life
from agentstore.queue.recovery import replay, retry_refused
from agentstore.queue.write_queue import WriteQueue
from agentstore.stats import Events, QueueStats

from .encryption import Encrypting
from .fence import Fence
from .in_turn import InTurn
from .noted import Noted
from .overlay import Overlay
from .place import PlaceOf
from .replica import Replica
from .replicas import Replicated
from .retry import Retrying

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from agentstore.errors import AgentstoreError
    from agentstore.keyring import Keyring
    from agentstore.protocol import Backend
    from agentstore.stats import PoolStats
    from agentstore.telemetry.watch import Watch
    from agentstore.url import StoreURL

_SHARE = 3
"""A replica that says nothing is waited for so much less than a call may take: the primary must have time to answer."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `db` was told, checked.

    Attributes:
        durability: ``commit``, ``journal`` or ``memory``.
        fallback: None, ``journal`` or ``memory``.
        keyring: Encrypts what goes to the backend, and into the journal; None leaves it as it is.
        pool, queue, retry: As in `db`.
        replicas: Of the conversations' backend.
    """

    durability: str = "commit"
    fallback: str | None = None
    keyring: Keyring | None = None
    pool: PoolOptions = field(default_factory=PoolOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)
    replicas: Sequence[StoreURL] = ()


class Side:
    """A backend as Databases see it, for all event loops; those that are set up alike share one (`Stacks`).

    Attributes:
        users: Who shares it.
        likeness: Equal for those of one store that can be shared; None where there is nothing to share.
        located: Finds what is open of the same store in this process.
        below: The backend within its layers: where the queue drains to.
        overlaid: The same, with what is pending laid over it.
        store: What answers: that, in its turn.
        queue: The write-behind queue; None where every write is committed before it returns.
        bounds: How much may be under way.
        tally: Counts what was written.
        events: Counts what befell it.
        watch: Tells OpenTelemetry of it; None unless the program records.
        replicated: Sends reads to replicas; None where there are none.
        spec: Its driver.
        deferring: Every write that can be deferred is; else only while the backend is down.

    Args:
        url: Where it is.
        settings: How it is to be used.
        replicas: Of this backend.

    Raises:
        ConfigurationError: The URL cannot be right, or that of a replica.
    """

    def __init__(self, url: StoreURL, settings: Settings, replicas: Sequence[StoreURL] = ()) -> None:
        self.url = url
        self.users: set[object] = set()
        self.located = PlaceOf(url)
        self.events = Events()
        self.watch: Watch | None = None
        self.spec = registry.find(url)
        self.deferring = settings.durability != "commit"
        self.bounds = Bounds(settings.queue)
        self.tally = Tally()
        # A store that ends with the process has nothing that a journal could be replayed to.
        self._folder = None if url.is_ephemeral else Folder(settings.queue.journal_dir, url, settings.keyring)
        queued = self.deferring or settings.fallback is not None
        below, self.replicated = _below(url, settings, self.events, replicas, has_fallback=queued)
        self.below: Backend = Noted(below, self.located)
        self.queue = self._new_queue(settings) if queued else None
        self._life = None if self.queue is None else self._new_life(self.queue, settings)
        self.overlaid: Backend = self.below if self.queue is None else Overlay(self.below, self.queue)
        self.store: Backend = InTurn(self.overlaid, self.located, self.queue)
        shares = not url.is_ephemeral and (queued or replicas)
        self.likeness = _likeness(url, settings, replicas) if shares else None
        self._guard = threading.Lock()

    def _new_queue(self, settings: Settings) -> WriteQueue:
        return WriteQueue(
            self._folder,
            settings.queue,
            self.bounds,
            settings.retry.deadline,
            self.events,
            name=str(self.url),
            journal=_journal(settings) if self._folder is not None else None,
            blind=settings.fallback is not None,
        )

    def _new_life(self, queue: WriteQueue, settings: Settings) -> Life:
        return Life(
            self.below,
            queue,
            self._folder,
            self.tally,
            self.events,
            close_timeout=settings.queue.close_timeout,
            pace=settings.queue.flush_interval if settings.durability == "memory" else 0.0,
            commits=self.spec.commits,
            patient=settings.fallback is not None,
        )

    def begin_watch(self) -> Watch | None:
        """Tell OpenTelemetry from now on, if the program records."""
        with self._guard:
            if self.watch is None:
                self.watch = telemetry.find(self.url, self)
            if self.watch is not None:
                self.events.told = self.watch.count
                if self.queue is not None:
                    self.queue.watch = self.watch
            return self.watch

    def queue_stats(self) -> QueueStats:
        """What went down so far, and what is pending now."""
        queue = self.queue
        return QueueStats(
            waiting=queue.pending if queue is not None else 0,
            groups=self.tally.groups,
            writes=self.tally.operations,
            messages=self.bounds.messages,
            bytes=self.bounds.bytes,
            journal_bytes=queue.journal_bytes if queue is not None else 0,
            rejected=self.events.rejected,
            replayed=self.events.replayed,
        )

    def pools(self) -> Sequence[PoolStats]:
        """The connection pools in use."""
        return self.below.pools()

    @property
    def _fence(self) -> Fence | None:
        return None if self.replicated is None else self.replicated.fence

    async def aopen(self) -> None:
        """Open the backend, and store what processes that died have left in their journals."""
        self.located.place.enter(self.queue, self._fence)
        if self._life is not None:
            await self._life.aopen()
            return
        await self.below.aopen()
        if self._folder is not None:
            self.events.count("replayed", await replay(self.below, self._folder))

    async def retry_refused(self) -> tuple[int, list[AgentstoreError]]:
        """See `recovery.retry_refused`."""
        return (0, []) if self._folder is None else await retry_refused(self.below, self._folder)

    async def settled(self) -> None:
        """Wait until what is pending is stored, for as long as a close waits."""
        if self._life is not None:
            await self._life.settled()

    async def aclose(self) -> None:
        """Store or journal what is pending, then let go of the backend."""
        try:
            if self._life is not None:
                await self._life.aclose()
        finally:
            self.located.place.exit(self.queue, self._fence)
            await self.below.aclose()
            if self.watch is not None:
                self.watch.close(self)

    def abandon(self) -> None:
        """The same for those who cannot await: the Database was dropped, or the interpreter is ending."""
        if self._life is None:
            self._let_go()
        else:
            self._life.abandon(self._let_go)

    def _let_go(self) -> None:
        self.located.place.exit(self.queue, self._fence)
        self.below.close_at_exit()


def _below(
    url: StoreURL, settings: Settings, events: Events, replicas: Sequence[StoreURL], *, has_fallback: bool
) -> tuple[Backend, Replicated | None]:
    """A backend within its layers, and that of them which knows replicas, where there are any.

    What is tried again is tried at the primary: a replica that fails has a stand-in. Sealing is done to each by itself,
    for it looks before it writes, and must look where it writes.
    """
    driver = registry.load(url, settings.pool)
    store = Retrying(_sealed(driver, settings), settings.retry, str(url), events, has_fallback=has_fallback)
    if not replicas:
        return store, None
    if not isinstance(driver, Replicable):
        raise ConfigurationError(f"{url} can have no replicas: {registry.find(url).alone}", hint="Leave replicas out")
    fence = Fence(driver.position, str(url))
    followers: list[Replica] = []
    for place, replica in enumerate(replicas):
        _check_replica(replica, url, replicas[:place])
        follower = registry.load(replica, settings.pool)
        follower.follow(driver, fence.required)  # type: ignore[attr-defined]  # of its primary's class
        followers.append(Replica(str(replica), _sealed(follower, settings), settings.retry.deadline / _SHARE))
    replicated = Replicated(store, fence, followers)
    return replicated, replicated


def _likeness(url: StoreURL, settings: Settings, replicas: Sequence[StoreURL]) -> Hashable:
    keys = None if settings.keyring is None else settings.keyring.ids
    limits = settings.pool, settings.queue, settings.retry
    return url.secret, settings.durability, settings.fallback, keys, limits, tuple(each.secret for each in replicas)


def _sealed(driver: Backend, settings: Settings) -> Backend:
    return driver if settings.keyring is None else Encrypting(driver, settings.keyring)


def _check_replica(replica: StoreURL, url: StoreURL, others: Sequence[StoreURL]) -> None:
    if registry.find(replica).factory != registry.find(url).factory:
        raise ConfigurationError(f"{replica} cannot be a replica of {url}: that is another kind of store")
    if len(replica.hosts) > 1:
        raise ConfigurationError(f"{replica} names several hosts", hint="Give each replica a URL of its own")
    places = [(other.hosts, other.path, other.options) for other in (url, *others)]
    if (replica.hosts, replica.path, replica.options) in places:
        raise ConfigurationError(
            f"{replica} is named twice", hint="Let replicas name each replica once, and no primary"
        )


def _journal(settings: Settings) -> str | None:
    if settings.durability == "journal" or (settings.durability == "commit" and settings.fallback == "journal"):
        return "always"
    return "down" if settings.fallback == "journal" else None
