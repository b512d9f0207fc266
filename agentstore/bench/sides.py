"""The ways to do each kind of work. The calls are handed in: agentstore and the bare driver do the very same."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from agentstore.errors import AgentstoreError

from .kit import turn
from .measure import Side

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from agentstore.records import Message

    Store = Callable[[str, list[Message]], Awaitable[object]]
    """Adds messages to a session."""
    Last = Callable[[str, int], Awaitable[list[Message]]]
    """A session's newest messages, so many."""
    Count = Callable[[str, int], Awaitable[int]]
    """How many messages a session has, of which so many are expected."""


class Appends(Side):
    """Turns, each durable before it returns.

    Args:
        name: As `Side`.
        store: Stores a turn.
        count: Tells how many are there; None: nobody can, and nothing is checked.
        session: The session that a caller appends to in a sample.
        already: Messages that a session has before.
        flush: What has to be waited for within the time.
        judged: As `Side`.
    """

    def __init__(
        self,
        name: str,
        store: Store,
        count: Count | None,
        session: Callable[[int, int], str],
        *,
        already: int = 0,
        flush: Callable[[], Awaitable[None]] | None = None,
        judged: bool = True,
    ) -> None:
        super().__init__(name, judged=judged)
        self._store, self._count, self._session, self._flush = store, count, session, flush
        self._already = already
        self._stored: Counter[str] = Counter()
        self._sessions: list[str] = []

    async def ready(self, sample: int, callers: int, each: int) -> None:
        """Choose the sessions."""
        del each
        self._sessions = [self._session(sample, caller) for caller in range(callers)]

    async def do(self, caller: int, number: int) -> None:
        """A turn."""
        del number
        await self._store(self._sessions[caller], turn())

    async def settle(self) -> None:
        """Wait for what was only accepted."""
        if self._flush is not None:
            await self._flush()

    async def check(self, done: Sequence[int]) -> None:
        """All turns are there."""
        for session, turns in zip(self._sessions, done, strict=True):
            self._stored[session] += 2 * turns
            expected = self._stored[session] + self._already
            found = expected if self._count is None else await self._count(session, expected)
            if found != expected:
                raise AgentstoreError(f"{self.name}: session {session} has {found} of {expected} acknowledged messages")


class Accepts(Appends):
    """Turns that were made before, so that only their acceptance is timed; a moment for others now and then."""

    async def ready(self, sample: int, callers: int, each: int) -> None:
        """Make the turns."""
        await super().ready(sample, callers, each)
        self._turns = [[turn() for _ in range(each)] for _ in range(callers)]

    async def do(self, caller: int, number: int) -> None:
        """Have one accepted."""
        await self._store(self._sessions[caller], self._turns[caller][number])


class Calls(Side):
    """Any call at all, with nothing of it to be found again."""

    def __init__(self, name: str, call: Callable[[], Awaitable[object]]) -> None:
        super().__init__(name)
        self._call = call

    async def do(self, caller: int, number: int) -> None:
        """Call it."""
        del caller, number
        await self._call()


class Syncs(Side):
    """The least that makes a turn durable: its bytes behind those of a file, and one fdatasync."""

    _BYTES = b"x" * 1300

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name)
        self._path = folder / "plain"

    async def ready(self, sample: int, callers: int, each: int) -> None:
        """Open the file."""
        del sample, callers, each
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def do(self, caller: int, number: int) -> None:
        """A turn; the loop waits, for it has nothing else to do."""
        del caller, number
        os.write(self._file, self._BYTES)
        getattr(os, "fdatasync", os.fsync)(self._file)

    async def settle(self) -> None:
        """Close the file."""
        os.close(self._file)


class Reads(Side):
    """The newest messages of one session after another."""

    def __init__(self, name: str, last: Last, sessions: Sequence[str], limit: int) -> None:
        super().__init__(name)
        self._last, self._sessions, self._limit = last, sessions, limit

    async def do(self, caller: int, number: int) -> None:
        """The newest of one."""
        session = self._sessions[(caller + number) % len(self._sessions)]
        found = await self._last(session, self._limit)
        if len(found) != self._limit:
            raise AgentstoreError(f"{self.name}: session {session} gave {len(found)} of {self._limit} messages")


class Values(Side):
    """A value set and read again, under a key for each caller."""

    def __init__(
        self, name: str, put: Callable[[str, Any], Awaitable[object]], get: Callable[[str], Awaitable[Any]]
    ) -> None:
        super().__init__(name)
        self._put, self._get = put, get

    async def do(self, caller: int, number: int) -> None:
        """Set, and get."""
        value = {"step": number, "notes": "n" * 80}
        await self._put(f"key-{caller}", value)
        found = await self._get(f"key-{caller}")
        if found != value:
            raise AgentstoreError(f"{self.name}: key-{caller} is {found}, and was set to {value}")


class Mixes(Side):
    """What a turn of an agent asks of a store, one after the other: history, prompt, answer, and a value of state."""

    def __init__(self, name: str, last: Last, appends: Appends, values: Values, sessions: Sequence[str]) -> None:
        super().__init__(name)
        self._last, self._appends, self._values, self._sessions = last, appends, values, sessions

    async def ready(self, sample: int, callers: int, each: int) -> None:
        """As those it is made of."""
        await self._appends.ready(sample, callers, each)

    async def do(self, caller: int, number: int) -> None:
        """The history twice (a page shows it too), a turn, a value."""
        for _ in range(2):
            if not await self._last(self._sessions[caller], 50):
                raise AgentstoreError(f"{self.name}: session {self._sessions[caller]} has no history")
        await self._appends.do(caller, number)
        await self._values.do(caller, number)

    async def settle(self) -> None:
        """As those it is made of."""
        await self._appends.settle()

    async def check(self, done: Sequence[int]) -> None:
        """As those it is made of."""
        await self._appends.check(done)
