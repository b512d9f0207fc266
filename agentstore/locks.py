"""Who may have a turn on a session: one at a time in this process, whichever thread or loop it runs on."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .concurrency import CrossLoopLock

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

inside: ContextVar[frozenset[Hashable]] = ContextVar("inside", default=frozenset())
"""The sessions in whose turns the code at hand runs as a model or tool."""

_GRACE = 10  # turns of a loop, within which a stream that was dropped, not closed, begins to close itself

_ENDLESS = "a tool or model began a turn on a session whose own turn waits for that to end: it would never end"


@dataclass(slots=True)
class Place:
    """A session's lock, and who has it."""

    lock: CrossLoopLock = field(default_factory=CrossLoopLock)
    users: int = 0  # the holder and those who wait
    holder: object = None
    awaited: list[Hashable] = field(default_factory=list)  # sessions on which its tools or model have begun turns

    def leave(self) -> None:
        """The holder will soon have done, whatever its caller does meanwhile."""
        self.holder = None


class TurnLocks:
    """A lock for each session that has a turn now, first come first served; idle sessions take no room."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._places: dict[Hashable, Place] = {}

    def hold(self, key: Hashable, caller: object) -> _Hold:
        """A context manager that waits for the session's turn and has it.

        Args:
            key: The session.
            caller: The thread or task that waits for the turn to end.

        Raises:
            RuntimeError: It would wait for itself.
        """
        return _Hold(self, key, caller)

    def enter(self, key: Hashable) -> tuple[Place, list[Place]]:
        """Get in line.

        Returns:
            The session's place, and those whose turns wait for this one, because it is begun by a tool or model of
            theirs: hand both to `exit`.

        Raises:
            RuntimeError: The session's turn waits, itself or through others, for the one that begins this.
        """
        with self._guard:
            if inside.get() & self._awaited_by(key):
                raise RuntimeError(_ENDLESS)
            outer = [self._places[one] for one in inside.get() if one in self._places]
            for one in outer:
                one.awaited.append(key)
            place = self._places.setdefault(key, Place())
            place.users += 1
            return place, outer

    def _awaited_by(self, key: Hashable) -> set[Hashable]:
        """The session itself, and all whose turns have to end before its turn can."""
        found: set[Hashable] = set()
        left = [key]
        while left:
            one = left.pop()
            if one not in found:
                found.add(one)
                left += self._places[one].awaited if one in self._places else ()
        return found

    def exit(self, key: Hashable, outer: Iterable[Place]) -> None:
        """Get out of it."""
        with self._guard:
            for one in outer:
                one.awaited.remove(key)
            place = self._places[key]
            place.users -= 1
            if not place.users:
                del self._places[key]

    def holds(self, key: Hashable, caller: object) -> bool:
        """Whether `caller` has the session's turn."""
        place = self._places.get(key)
        return place is not None and place.holder is caller

    def check(self, key: Hashable, caller: object, blocks: asyncio.AbstractEventLoop | None = None) -> None:
        """Refuse to wait for what could never end.

        Args:
            key: The session.
            caller: As in `hold`.
            blocks: The event loop that stands still while the caller waits.

        Raises:
            RuntimeError: The caller is a tool or the model of a turn on this session, or reads a stream of one, or
                blocks the loop which one needs to end.
        """
        if key in inside.get():
            raise RuntimeError(_ENDLESS)
        if self.holds(key, caller):
            raise RuntimeError(
                "a turn on a session whose stream is still being read here would never end: "
                "read the stream to its end, or close it, first"
            )
        place = self._places.get(key)
        if blocks is not None and place is not None and place.lock.needs(blocks):
            raise RuntimeError(
                "a blocking turn on a session whose async turn runs on the event loop of this thread would never end: "
                "await achat() or astream() instead"
            )


class _Hold:
    """`TurnLocks.hold`; a class, because a generator would be closed too early by a loop that ends."""

    def __init__(self, locks: TurnLocks, key: Hashable, caller: object) -> None:
        self._locks, self._key, self._caller = locks, key, caller

    async def __aenter__(self) -> Place:
        for _ in range(_GRACE):
            if not self._locks.holds(self._key, self._caller):
                break
            await asyncio.sleep(0)
        self._locks.check(self._key, self._caller)
        self._place, self._outer = self._locks.enter(self._key)
        try:
            await self._place.lock.__aenter__()
        except BaseException:
            self._locks.exit(self._key, self._outer)
            raise
        self._place.holder = self._caller
        return self._place

    async def __aexit__(self, *exc: object) -> None:
        self._place.leave()
        await self._place.lock.__aexit__(*exc)
        self._locks.exit(self._key, self._outer)


locks = TurnLocks()
