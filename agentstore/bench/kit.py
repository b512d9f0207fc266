"""What a workload works with: a store that was empty, its bare driver, and names of their own; all is removed again."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.database import Database, db
from agentstore.drivers import registry
from agentstore.errors import AgentstoreError, ConfigurationError, UnavailableError
from agentstore.home import home
from agentstore.options import PoolOptions, QueueOptions
from agentstore.protocol import Listing
from agentstore.records import Message
from agentstore.url import StoreURL

from . import raw as bare
from .group import Gatherer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator

    from agentstore.findings import Finding

    from .measure import Watch
    from .raw import Raw

_USER, _ASSISTANT = "u" * 200, "a" * 800
_BATCH = 1000  # messages in one append, where a session is prepared
_AT_ONCE = 16
_POOL = PoolOptions()  # ten connections, as the bare drivers have


def turn() -> list[Message]:
    """What one turn stores: 200 B of the user's, 800 B of the assistant's."""
    return [Message("user", _USER), Message("assistant", _ASSISTANT)]


@dataclass(frozen=True, slots=True)
class Options:
    """How to measure.

    Attributes:
        sessions: How many at once; None is what the workload says, as for the next two.
        turns: Operations of each session in a sample.
        messages: How many a long session has.
        durability: That of `db`.
        raw: Whether to do the same on the bare driver.
        repeats: Samples of each side.
        seconds: The longest that a sample may take.
        force: Whether the store may hold something.
    """

    sessions: int | None = None
    turns: int | None = None
    messages: int | None = None
    durability: str = "commit"
    raw: bool = False
    repeats: int = 5
    seconds: float = 2.0
    force: bool = False


class Hand:
    """The bare driver, and the groups gathered over it."""

    def __init__(self, raw: Raw) -> None:
        self.raw = raw
        self.grouped = Gatherer(raw)

    async def count(self, session_id: str, expected: int) -> int:
        """How many messages are there, of so many expected; one too many is noticed too."""
        return len(await self.raw.last(session_id, expected + 1))


class Kit:
    """A store to measure, made by `opened`.

    Attributes:
        database: The store.
        hand: Its bare driver, if the same is to be done there.
        options: How to measure.
        folder: On the disk where journals live, to be used and removed.
        findings: What the store says of itself.
        name: What all sessions and the state's namespace of this run begin with.
        watch: Is told what is going on.
    """

    def __init__(
        self,
        database: Database,
        options: Options,
        folder: Path,
        findings: list[Finding],
        watch: Watch,
    ) -> None:
        self.database, self.options, self.folder, self.findings, self.watch = database, options, folder, findings, watch
        self.hand: Hand | None = None
        self.name = f"agentstore-bench-{secrets.token_hex(4)}" if options.force else "agentstore-bench"
        self.namespace = self.name
        self.pool = _POOL
        self._sessions: set[str] = set()

    def session(self, *parts: object) -> str:
        """The id of a session of this run; it is deleted in the end."""
        name = "-".join(map(str, (self.name, *parts)))
        self._sessions.add(name)
        return name

    async def fill(self, session_id: str, count: int) -> None:
        """Give a session so many messages."""
        await self._fill(self.database.append, session_id, count)

    async def fill_by_hand(self, hand: Hand, session_id: str, count: int) -> None:
        """The same on the bare driver."""
        await self._fill(hand.raw.append, session_id, count)

    async def _fill(
        self, append: Callable[[str, list[Message]], Awaitable[object]], session_id: str, count: int
    ) -> None:
        for done in range(0, count, _BATCH):
            self.watch("storing what is to be read", done, count)
            size = min(_BATCH, count - done)
            await append(session_id, [message for _ in range(0, size, 2) for message in turn()][:size])
        await self.database.flush()

    async def last(self, session_id: str, limit: int) -> list[Message]:
        """The newest messages."""
        return await self.database.messages(session_id, limit=limit)

    async def count(self, session_id: str, expected: int) -> int:  # noqa: ARG002  as that of a `Hand`
        """How many messages the store says that the session has."""
        session = await self.database.session(session_id)
        return 0 if session is None else session.message_count

    async def clean_up(self) -> None:
        """Remove all that was stored.

        Raises:
            UnavailableError: It could not be removed; what is left is named.
        """
        names = sorted(self._sessions)
        try:
            for at in range(0, len(names), _AT_ONCE):
                self.watch("cleaning up", at, len(names))
                await asyncio.gather(*map(self.database.delete_session, names[at : at + _AT_ONCE]))
            scope = self.database.state.scope(self.namespace)
            await scope.delete_many(item.key for item in await scope.scan())
            await self.database.flush()
        except AgentstoreError as error:
            raise UnavailableError(
                f"what the benchmark stored could not be removed: {error}",
                hint=f"Sessions and a namespace whose names begin with {self.name} are left",
            ) from error


@asynccontextmanager
async def opened(url: str, options: Options, watch: Watch, *, by_hand: bool) -> AsyncGenerator[Kit, None]:
    """A store to measure; in the end, however that comes, all that was stored is removed.

    Args:
        url: Which store.
        options: How to measure.
        watch: Is told what is going on.
        by_hand: Whether the bare driver is needed.

    Raises:
        ConfigurationError: It is not empty, or has no bare driver to compare with.
    """
    findings = await _look(StoreURL.parse(url), force=options.force)
    with _folder() as folder:
        queue = QueueOptions(journal_dir=folder / "journal")
        async with db(url, url, durability=options.durability, pool=_POOL, queue=queue) as database:
            raw = bare.load(StoreURL.parse(url)) if by_hand else None
            kit = Kit(database, options, folder, findings, watch)
            try:
                if raw is not None:
                    await raw.aopen()
                    kit.hand = Hand(raw)
                yield kit
            finally:
                await _close(kit)


@contextmanager
def _folder() -> Generator[Path, None, None]:
    """A folder on the disk that has the journals by default, for a moment."""
    base = home("bench")
    base.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=base, prefix="run-") as folder:
            yield Path(folder)
    finally:
        with suppress(OSError):  # another run has its folder there
            base.rmdir()


async def _close(kit: Kit) -> None:
    try:
        if kit.hand is not None:
            await kit.hand.grouped.ended()
            await kit.hand.raw.aclose()
    finally:
        await kit.clean_up()


async def _look(url: StoreURL, *, force: bool) -> list[Finding]:
    """What the store says of itself; refuses one that holds something."""
    backend = registry.load(url, _POOL)
    try:
        await backend.aopen()
        full = (await backend.list_sessions(Listing(limit=1))).items or await backend.namespaces(limit=1)
        if full and not force:
            raise ConfigurationError(
                f"{url} holds sessions or state, and a benchmark wants a store of its own",
                hint="Name an empty one, or add --force: then only what the benchmark itself stored is removed",
            )
        return await backend.examine()
    finally:
        await backend.aclose()
