"""One store as this process has it open: what the Databases that use it must know of one another."""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from agentstore.queue.journal import store_key

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable

    from agentstore.queue.write_queue import WriteQueue
    from agentstore.url import StoreURL

    from .assembly import Side
    from .fence import Fence, Key


class Place:
    """The queues before a store, the fences of its replicas, and what Databases that are set up alike share.

    A Database sees what another one has accepted, though it is set up differently: it waits until that is stored.

    Attributes:
        queues: Those that may hold something.
        fences: Those that must be told of every write.
    """

    def __init__(self) -> None:
        self.queues: tuple[WriteQueue, ...] = ()
        self.fences: tuple[Fence, ...] = ()
        # One that its thread may take again: a Database may be collected, and leave, where this is held.
        self._guard = threading.RLock()
        self._shared: dict[Hashable, Side] = {}

    # --- Databases that are set up alike ---

    def join(self, side: Side, user: object) -> Side:
        """What has been joined by one that is set up like `side`, else that itself."""
        if (key := side.likeness) is None:
            return side
        with self._guard:
            while True:
                shared = self._shared.setdefault(key, side)
                shared.users.add(user)
                if self._shared.get(key) is shared:  # else its last user was collected between these two lines
                    return shared

    def leave(self, side: Side, user: object) -> bool:
        """Whether nobody uses it any more."""
        with self._guard:
            side.users.discard(user)
            if side.users:
                return False
            if self._shared.get(side.likeness) is side:
                del self._shared[side.likeness]
            return True

    # --- queues and fences ---

    def enter(self, queue: WriteQueue | None, fence: Fence | None) -> None:
        """They are in use from now on."""
        with self._guard:
            if queue is not None and queue not in self.queues:
                self.queues += (queue,)
            if fence is not None and fence not in self.fences:
                self.fences += (fence,)

    def exit(self, queue: WriteQueue | None, fence: Fence | None) -> None:
        """They are not any more."""
        with self._guard:
            self.queues = tuple(each for each in self.queues if each is not queue)
            self.fences = tuple(each for each in self.fences if each is not fence)

    async def sessions_passed(self, ids: Iterable[str] | None, but: WriteQueue | None = None) -> None:
        """Wait until what is pending of these sessions (None: of all) has been stored or refused.

        Args:
            ids: Whose.
            but: A queue that is not waited for.

        Raises:
            UnavailableError: The backend cannot be reached, or it took longer than the deadline.
        """
        for queue in self.queues:
            if queue is not but and queue.log.by_key:
                await queue.passed(queue.log, *([None] if ids is None else ids))

    async def namespaces_passed(self, names: Iterable[str], but: WriteQueue | None = None) -> None:
        """The same for namespaces of the state."""
        for queue in self.queues:
            if queue is not but and queue.state.by_key:
                await queue.passed(queue.state, *names)

    def changed(self, session_id: str) -> None:
        """A session is not what the queues may know of it."""
        for queue in self.queues:
            queue.known.forget(session_id)

    def wrote(self, keys: Collection[Key] | None) -> None:
        """See `Fence.wrote`."""
        for fence in self.fences:
            fence.wrote(keys)


class PlaceOf:
    """Finds the place of a URL when it is first asked for, for that looks at the disk: a file may have several names.

    Args:
        url: The store. One that ends with its user is a place of its own.
    """

    def __init__(self, url: StoreURL) -> None:
        self._url = url

    @cached_property
    def place(self) -> Place:
        """The same for all URLs of one store."""
        if self._url.is_ephemeral:
            return Place()
        return _places.setdefault(store_key(self._url), Place())


_places: WeakValueDictionary[str, Place] = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_places.clear)  # what is pending there is the parent's, who will store it
