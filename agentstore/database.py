"""`db()` and `Database`: assembles the stack and owns its life."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .calls import Calls, Use
from .checks import check_ttl
from .conversations import Conversations
from .drivers.registry import find
from .errors import ConfigurationError, InvalidInputError, shown
from .home import home
from .keyring import Keyring
from .layers.assembly import Settings
from .layers.stack import Stacks
from .options import PoolOptions, QueueOptions, RetryOptions
from .state import BlockingStateScope, StateScope
from .stats import Stats
from .sync import blocking, blocking_iterator, run_blocking
from .tails import Tails
from .url import StoreURL

if TYPE_CHECKING:
    from datetime import timedelta

DEFAULT_URL = "sqlite:///agentstore.db"


class Database(Conversations):
    """Conversations and state on one or two backends; made by `db`.

    One object may be used from several threads and event loops at once, sync and async.

    Attributes:
        state: The root `StateScope`.
        tails: What turns keep of sessions, for the next ones.
        identity: Equal for two Databases whose conversations are the same.
    """

    def __init__(
        self, conversations: StoreURL, state: StoreURL, settings: Settings, session_ttl: timedelta | None = None
    ) -> None:
        self._urls = (conversations, state)
        self._session_ttl = session_ttl
        self._stacks = Stacks(conversations, state, settings)
        self._calls = Calls(self._stacks)
        self.state = StateScope(self._calls)
        self.identity = _identity(conversations)
        self.tails = Tails()

    def __repr__(self) -> str:
        conversations, state = self._urls
        return f"db({str(conversations)!r}" + (")" if state == conversations else f", state_url={str(state)!r})")

    def use(self, call: str, size: int = 1) -> Use:
        """The running loop's way down, for one call of that name, with so many messages; it is measured."""
        return self._calls.use(call, size, side=0)

    # --- life ---

    async def flush(self) -> None:
        """Wait until every write accepted before is committed: all deferred ones, and those of this event loop.

        Raises:
            AgentstoreError: What the backend has refused, since the last flush, of writes that had been accepted. They
                are kept (`agentstore journal ls`), and later ones go on.
            UnavailableError: The backend did not take them within ``RetryOptions.deadline``; they stay accepted.
        """
        async with self.use("flush") as stack:
            await stack.flush()

    async def ping(self) -> None:
        """One round trip to each backend; `UnavailableError` if one does not answer."""
        async with self.use("ping"):
            for backend in self._stacks.backends:
                await backend.ping()

    async def aopen(self) -> None:
        """Open the backends now instead of at the first use, creating or migrating what they need."""
        await self._stacks.stack()

    async def aclose(self) -> None:
        """Commit what is pending and let go of everything. A second close does nothing.

        It waits for deferred writes for up to ``QueueOptions.close_timeout``; what is left then stays in the journal
        (a warning says where), and is stored by whoever opens the store next.
        """
        await self._stacks.aclose()

    def close(self) -> None:
        """`aclose`, blocking."""
        run_blocking(self.aclose)

    def stats(self) -> Stats:
        """Figures about this Database since it was made."""
        meter = self._calls.meter
        return Stats(
            pools=tuple(pool for backend in self._stacks.backends for pool in backend.pools()),
            queue=self._stacks.queue_stats(),
            latencies=meter.latencies(),
            errors=meter.errors(),
            fallbacks=self._stacks.befell("fallbacks"),
            retries=self._stacks.befell("retries"),
            fast_failures=self._stacks.befell("fast_failures"),
            replicas=tuple(self._stacks.replicas()),
        )

    @property
    def sync(self) -> BlockingDatabase:
        """The same surface, blocking, for any thread, and for a notebook cell too."""
        return BlockingDatabase(self)

    async def __aenter__(self) -> Self:
        await self.aopen()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        run_blocking(self.aopen)
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class BlockingDatabase:
    """`Database`, blocking: `Database.sync`."""

    def __init__(self, target: Database) -> None:
        self._target = target

    @property
    def state(self) -> BlockingStateScope:
        """The root scope, blocking."""
        return self._target.state.sync

    def stats(self) -> Stats:
        """Figures about the Database."""
        return self._target.stats()

    append = blocking(Database.append)
    messages = blocking(Database.messages)
    find = blocking(Database.find)
    iter_messages = blocking_iterator(Database.iter_messages)
    pop = blocking(Database.pop)
    clear = blocking(Database.clear)
    session = blocking(Database.session)
    sessions = blocking(Database.sessions)
    update_session = blocking(Database.update_session)
    delete_session = blocking(Database.delete_session)
    purge_expired = blocking(Database.purge_expired)
    fork = blocking(Database.fork)
    export_session = blocking(Database.export_session)
    import_session = blocking(Database.import_session)
    flush = blocking(Database.flush)
    ping = blocking(Database.ping)
    open = blocking(Database.aopen)
    close = blocking(Database.aclose)


def db(
    database_url: str | None = None,
    state_url: str | None = None,
    *,
    durability: str = "commit",
    replicas: Iterable[str] = (),
    fallback: str | None = None,
    session_ttl: timedelta | float | None = None,
    encryption_key: str | bytes | Iterable[str | bytes] | None = None,
    pool: PoolOptions | None = None,
    queue: QueueOptions | None = None,
    retry: RetryOptions | None = None,
) -> Database:
    """A Database on the backend of a URL. No I/O happens here: it opens at its first use.

    Args:
        database_url: Where conversations live; None is ``$AGENTSTORE_DATABASE_URL``, else ``sqlite:///agentstore.db``.
        state_url: Where state lives; None is ``$AGENTSTORE_STATE_URL``, else the backend of `database_url`.
        durability: ``"commit"``: what returned is committed. ``"journal"``: it is fsynced in a journal on this machine,
            and committed soon, after a crash by the next process that opens the store. ``"memory"``: it is accepted,
            and committed within ``QueueOptions.flush_interval``. Deferred messages have no seq until they are stored.
        replicas: URLs of read replicas of `database_url`. One answers where it has all that this process has written;
            what others write may come later there.
        fallback: What takes writes while the backend is down: ``"journal"`` or ``"memory"``, as durable as that is;
            they are stored in order when it is back. None: callers get `UnavailableError`.
        session_ttl: Seconds or timedelta after a session's last activity until it expires; None keeps it for ever.
        encryption_key: Encrypts what messages, titles, metadata and state values say: random text or bytes (``openssl
            rand -base64 32``), or several of them, of which the first encrypts and all decrypt. See docs/encryption.md.
        pool: Connections; `PoolOptions()` by default. The embedded stores heed ``connect_timeout`` and
            ``statement_timeout``, and JSON files ``size`` (threads that read).
        queue: The bounds of what is under way, and where journals live: `QueueOptions()` by default.
        retry: How often and how long a call is tried again that a backend could not take just then: `RetryOptions()`
            by default. Only what may happen twice is repeated, or what never got there.

    Raises:
        ConfigurationError: A URL or an argument is wrong, a driver package is missing, or it is not available yet.
    """
    _check_urls(database_url, state_url, replicas)
    _check_choice("durability", durability, ("commit", "journal", "memory"))
    _check_choice("fallback", fallback, (None, "memory", "journal"))
    for options, kind in ((pool, PoolOptions), (queue, QueueOptions), (retry, RetryOptions)):
        if options is not None and not isinstance(options, kind):
            raise ConfigurationError(f"{kind.__name__} was expected, not {type(options).__name__}")
    try:
        ttl = check_ttl(session_ttl, "session_ttl")
    except InvalidInputError as error:
        raise ConfigurationError(str(error)) from error
    url = StoreURL.parse(database_url or os.environ.get("AGENTSTORE_DATABASE_URL") or DEFAULT_URL)
    state = state_url or os.environ.get("AGENTSTORE_STATE_URL")
    keyring = None if encryption_key is None else Keyring(encryption_key)
    limits = pool or PoolOptions(), queue or QueueOptions(), retry or RetryOptions()
    copies = [StoreURL.parse(replica) for replica in replicas]
    settings = Settings(durability, fallback, keyring, limits[0], limits[1], limits[2], copies)
    return Database(url, StoreURL.parse(state) if state else url, settings, ttl)


def DefaultSessionStore(path: str | os.PathLike[str] | None = None) -> Database:  # noqa: N802  a public name
    """A Database on JSON files.

    Args:
        path: The folder; None is ``$AGENTSTORE_HOME/sessions``, else ``sessions`` in the user's data folder.
    """
    if path is None:
        path = home("sessions")
    elif not isinstance(path, (str, os.PathLike)):
        raise ConfigurationError(f"path must be a str or a Path, not {shown(path)}")
    url = StoreURL("file", path=str(Path(path).absolute()))
    return Database(url, url, Settings())


def _identity(url: StoreURL) -> object:
    if url.hosts or url.username is not None:  # a server, be it by a socket
        return url.secret
    if url.path.strip("/") in {"", ":memory:"}:
        return object()
    return find(url).factory, url.file_path()  # json: and file: may name one folder


def _check_urls(database_url: object, state_url: object, replicas: object) -> None:
    for name, url in (("database_url", database_url), ("state_url", state_url)):
        if url is not None and not isinstance(url, str):
            raise ConfigurationError(f"{name} must be a str, not {shown(url)}")
    if isinstance(replicas, str) or not isinstance(replicas, Iterable):
        raise ConfigurationError(f"replicas must be several URLs, not {shown(replicas)}", hint="Put one into a list")


def _check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        accepted = ", ".join(repr(choice) for choice in choices)
        given = repr(value) if isinstance(value, str) else shown(value)
        raise ConfigurationError(f"{name} is {given}; accepted: {accepted}")
