"""One backend of a Database within its layers, with the write-behind queue before it where there is one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentstore.drivers import registry
from agentstore.options import PoolOptions, QueueOptions, RetryOptions
from agentstore.queue.bounds import Bounds
from agentstore.queue.group import Tally
from agentstore.queue.journal import Folder
from agentstore.queue.life import Life
from agentstore.queue.recovery import replay, retry_refused
from agentstore.queue.write_queue import WriteQueue

from .encryption import Encrypting
from .overlay import Overlay
from .retry import Retrying

if TYPE_CHECKING:
    from agentstore.errors import AgentstoreError
    from agentstore.keyring import Keyring
    from agentstore.protocol import Backend
    from agentstore.stats import Tries
    from agentstore.url import StoreURL


@dataclass(frozen=True, slots=True)
class Settings:
    """What `db` was told, checked.

    Attributes:
        durability: ``commit``, ``journal`` or ``memory``.
        fallback: None, ``journal`` or ``memory``.
        keyring: Encrypts what goes to the backend, and into the journal; None leaves it as it is.
        pool, queue, retry: As in `db`.
    """

    durability: str = "commit"
    fallback: str | None = None
    keyring: Keyring | None = None
    pool: PoolOptions = field(default_factory=PoolOptions)
    queue: QueueOptions = field(default_factory=QueueOptions)
    retry: RetryOptions = field(default_factory=RetryOptions)


class Side:
    """A backend as the Database sees it, for all event loops.

    Attributes:
        below: The backend within its layers: where the queue drains to.
        store: What answers: `below`, or what overlays it with the queue.
        queue: The write-behind queue; None where every write is committed before it returns.
        bounds: How much may be under way.
        tally: Counts what was written.
        deferring: Every write that can be deferred is; else only while the backend is down.

    Args:
        url: Where it is.
        settings: How it is to be used.
        tries: Counts what is tried again.
    """

    def __init__(self, url: StoreURL, settings: Settings, tries: Tries) -> None:
        queue = settings.queue
        self.deferring = settings.durability != "commit"
        queued = self.deferring or settings.fallback is not None
        self.below: Backend = registry.load(url, settings.pool)
        if settings.keyring is not None:
            self.below = Encrypting(self.below, settings.keyring)
        self.below = Retrying(self.below, settings.retry, str(url), tries, has_fallback=queued)
        self.store: Backend = self.below
        self.queue: WriteQueue | None = None
        self.bounds = Bounds(queue)
        self.tally = Tally()
        self._life: Life | None = None
        # A store that ends with the process has nothing that a journal could be replayed to.
        self._folder = None if url.is_ephemeral else Folder(queue.journal_dir, url, settings.keyring)
        self._replayed = 0
        if queued:
            journal = _journal(settings) if self._folder is not None else None
            patient = settings.fallback is not None
            self.queue = WriteQueue(
                self._folder, queue, self.bounds, settings.retry.deadline, name=str(url), journal=journal, blind=patient
            )
            self._life = Life(
                self.below,
                self.queue,
                self._folder,
                self.tally,
                close_timeout=queue.close_timeout,
                pace=queue.flush_interval if settings.durability == "memory" else 0.0,
                patient=patient,
            )
            self.store = Overlay(self.below, self.queue)

    async def aopen(self) -> None:
        """Open the backend, and store what processes that died have left in their journals."""
        if self._life is not None:
            await self._life.aopen()
            return
        await self.below.aopen()
        if self._folder is not None:
            self._replayed += await replay(self.below, self._folder)

    @property
    def replayed(self) -> int:
        """Writes stored from journals of processes that died."""
        return self._replayed if self._life is None else self._life.replayed

    async def retry_refused(self) -> tuple[int, list[AgentstoreError]]:
        """See `recovery.retry_refused`."""
        return (0, []) if self._folder is None else await retry_refused(self.below, self._folder)

    async def aclose(self) -> None:
        """Store or journal what is pending, then let go of the backend."""
        try:
            if self._life is not None:
                await self._life.aclose()
        finally:
            await self.below.aclose()

    def abandon(self) -> None:
        """The same for those who cannot await: the Database was dropped, or the interpreter is ending."""
        if self._life is None:
            self.below.close_at_exit()
        else:
            self._life.abandon(self.below.close_at_exit)


def _journal(settings: Settings) -> str | None:
    if settings.durability == "journal" or (settings.durability == "commit" and settings.fallback == "journal"):
        return "always"
    return "down" if settings.fallback == "journal" else None
