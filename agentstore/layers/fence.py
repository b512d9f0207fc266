"""How far a replica must have come to answer this process: past all that it has written of what is asked for."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from agentstore.errors import AgentstoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator

    from agentstore.protocol import GetItems, Scan, StateOp

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.5  # seconds; a replica nearby is some milliseconds behind
_APART = 0.1  # seconds between two positions that are both kept
_POSITIONS = 8
_OLD = 5.0  # seconds after which a position that is not reached is given up: a failover may have made it void
_PATIENCE = 1.0  # seconds for the primary to tell its position
_KEPT = 10_000  # keys

_log = logging.getLogger("agentstore")

Key: TypeAlias = "tuple[str, str]"
"""What is written and read: ``("session", its id)`` or ``("state", a namespace)``."""


def sessions_of(ids: Iterable[str]) -> set[Key]:
    """The keys of these sessions."""
    return {("session", session_id) for session_id in ids}


def namespaces_of(ops: Iterable[GetItems | Scan | StateOp]) -> set[Key]:
    """The keys of the namespaces that these are about."""
    return {("state", op.namespace) for op in ops}


_required: ContextVar[str | None] = ContextVar("required", default=None)


class Position(NamedTuple):
    """A place of the primary.

    Attributes:
        covers: So many writes of this process lie before it.
        text: It, in the driver's words.
        taken: When it was told.
    """

    covers: int
    text: str
    taken: float


class Pause:
    """A time for which something that was not as hoped is not looked at again; it doubles each time.

    Args:
        clock: Seconds that never step back.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._length = 0.0
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be looked at."""
        return not self._length or self._clock() >= self._until

    def begin(self) -> None:
        """It was not as hoped."""
        self._length = min(2 * self._length, _LONGEST_PAUSE) or _FIRST_PAUSE
        self._until = self._clock() + self._length

    def end(self) -> None:
        """It is."""
        self._length = 0.0


class Fence:
    """Knows which writes of this process a reader must see, and positions of the primary behind them.

    The primary is asked only when somebody wants to read what was written since the last time. Nobody waits for
    another's look: until it is over there is no position, and reads go to the primary.

    Args:
        look: Asks the primary for its position.
        name: The primary, for messages; without password.
        clock: Seconds that never step back.
    """

    def __init__(
        self, look: Callable[[], Awaitable[str | None]], name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._name = name
        self._clock = clock
        self._guard = threading.Lock()  # held for a few instructions only, never across an await
        self._writes = 1  # whatever was there before this process began counts as its own
        self._all = 1  # so many of them may have concerned any key
        self._last: OrderedDict[Key, int] = OrderedDict()  # the last that concerned a key, if it came later
        self._positions: list[Position] = []  # those that cover more come later
        self._looker: object = None
        self._looking_until = 0.0
        self._pause = Pause(clock)
        self._told = False

    # --- writes ---

    def wrote(self, keys: Collection[Key] | None) -> None:
        """A write to these keys (None: to any) has ended, or nobody knows: no position taken before is behind it."""
        with self._guard:
            self._writes += 1
            if keys is None:
                self._all = self._writes
                self._last.clear()
                return
            for key in keys:
                self._last[key] = self._writes
                self._last.move_to_end(key)
            while len(self._last) > _KEPT:
                _, self._all = self._last.popitem(last=False)

    def needed(self, keys: Collection[Key] | None) -> int:
        """How many writes must lie before a position for a reader of these keys (None: of all)."""
        with self._guard:
            return (
                self._writes if keys is None else max((self._last.get(key, 0) for key in keys), default=0) or self._all
            )

    # --- positions ---

    @staticmethod
    def required() -> str | None:
        """What a replica must have reached for the reader who runs here; None: any will do."""
        return _required.get()

    @contextmanager
    def requiring(self, position: Position | None) -> Iterator[None]:
        """Whoever reads from a replica meanwhile requires this; None is the last position there is."""
        last = self._positions[-1:] if position is None else [position]
        token = _required.set(last[0].text if last else None)
        try:
            yield
        finally:
            _required.reset(token)

    def position(self, needed: int) -> Position | None:
        """The first that covers so many writes; None if none does."""
        return next((position for position in self._positions if position.covers >= needed), None)

    def missed(self, position: Position) -> None:
        """A replica has not reached it."""
        with self._guard:
            if self._clock() >= position.taken + _OLD:
                self._positions = [kept for kept in self._positions if kept.taken > position.taken]

    async def find_out(self) -> Position | None:
        """A position behind all writes noted before; None if it cannot be known, or somebody else is just asking."""
        try:
            return await self.look()
        except AgentstoreError as error:
            self._tell(error)
            return None

    async def look(self) -> Position | None:
        """As `find_out`.

        Raises:
            AgentstoreError: It cannot be known as things are. (That the primary is away is no news here.)
        """
        looker = self._begin()
        if looker is None:
            return None
        covers, text = self._writes, None
        try:
            async with asyncio.timeout(_PATIENCE):
                text = await self._look()
        except TimeoutError:
            self._tell(f"it did not tell how far it has come within {_PATIENCE} s")
            return None
        except UnavailableError as error:
            self._tell(error)
            return None
        finally:
            with self._guard:
                if self._looker is looker:
                    self._looker = None
        if text is None:
            self._tell("it does not say how far it has come")
            return None
        self._pause.end()
        self._told = False
        return self._taken(Position(covers, text, self._clock()))

    def _begin(self) -> object:
        """The right to ask; None while somebody else does, unless his loop seems to have stopped, and for a pause."""
        with self._guard:
            now = self._clock()
            if not self._pause.is_over or (self._looker is not None and now < self._looking_until):
                return None
            self._looker, self._looking_until = object(), now + 2 * _PATIENCE
            self._pause.begin()  # ends with the answer
            return self._looker

    def _taken(self, position: Position) -> Position:
        """Keep it, and some of those before it: for what was written earlier they will do, and are reached sooner."""
        with self._guard:
            kept = [each for each in self._positions if each.covers < position.covers]
            if len(kept) > 1 and kept[-1].taken < kept[-2].taken + _APART:
                kept.pop()
            self._positions = [*kept[1 - _POSITIONS :], position]
        return position

    def _tell(self, why: object) -> None:
        if not self._told:
            self._told = True
            _log.warning("%s: the replicas cannot be used, all reads go to the primary (%s)", self._name, why)
