"""What all parts of the contract share: the fixtures, and the words in which its tests are written."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from agentstore.database import Database, db
from agentstore.drivers import registry
from agentstore.layers.place import Place
from agentstore.options import PoolOptions
from agentstore.records import Message, Record
from agentstore.url import StoreURL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from pathlib import Path

    from agentstore.state import StateScope

Test = TypeVar("Test", bound="Callable[..., Any]")

TTL = 0.2
"""A time to live, in seconds, that a test can wait for."""

PATIENCE = 20.0
"""Seconds after which a condition that should come true counts as failed."""

GUARANTEES = {
    "expected_seq": "of racing appends that expect one seq, one is stored",
    "pop": "racing pops give each message once",
    "if_version": "of racing writes that expect one version, one is stored",
    "increment": "no racing increment is lost",
    "set_many": "set_many is seen whole or not at all",
    "listing": "paging through sessions misses none and doubles none",
    "expected_seq between processes": "the same, when the writers are several processes",
    "pop between processes": "the same, when the callers are several processes",
    "if_version between processes": "the same, when the writers are several processes",
    "increment between processes": "the same, when the callers are several processes",
    "once between processes": (
        "of one id appended by several processes at the same moment, one is stored, and all are told so"
    ),
    "ownership between processes": (
        "of several processes that create one session for different users at the same moment, one succeeds"
    ),
    "replayed deletions": "a set that comes again from a journal does not bring back a key deleted since",
    "update between processes": "no change to a session is lost when another process appends to it at the same moment",
}
"""What a driver may declare in ``lacks``; everything else is not optional."""


def guarantee(name: str) -> Callable[[Test], Test]:
    """Mark a test as showing one of `GUARANTEES`: a driver that declares to lack it is expected to fail."""

    def mark(test: Test) -> Test:
        test.__dict__["guarantee"] = (name, GUARANTEES[name])
        return test

    return mark


def elsewhere(database: Database) -> Database:
    """A Database that nobody here knows of, as if it were in another process."""
    for side in database._stacks.sides:  # noqa: SLF001  no user has a need for it
        side.located.place = Place()
    return database


class Contract:
    """The fixtures. A driver's test class overrides `database_url`, and where it likes `options`."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def database_url(self, tmp_path: Path) -> str:
        """The URL of an empty store, another one for each test."""
        raise NotImplementedError("override the fixture database_url: it returns the URL of an empty store")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Keyword arguments of every `db` that the suite calls; what they hold must be fit for pickle.

        Override it to put the suite to what `db` stacks on a driver.
        """
        return {}

    @pytest.fixture
    def anyio_backend(self) -> str:
        """The event loop on which the tests run."""
        return "asyncio"

    @pytest.fixture
    async def database(self, database_url: str, options: dict[str, Any]) -> AsyncIterator[Database]:
        """An open Database on the store, closed after the test."""
        async with db(database_url, **options) as database:
            yield database

    @pytest.fixture
    def lacks(self, database_url: str) -> dict[str, str]:
        """What the driver says that it cannot give, with the reasons."""
        return dict(registry.load(StoreURL.parse(database_url), PoolOptions()).lacks)

    @pytest.fixture(autouse=True)
    def _expect_what_lacks(self, request: pytest.FixtureRequest) -> None:
        name, _ = request.function.__dict__.get("guarantee", (None, None))
        reason = request.getfixturevalue("lacks").get(name) if name else None
        if reason:  # it runs all the same, and the report names it
            request.applymarker(pytest.mark.xfail(reason=f"lacks {name}: {reason}", strict=False))

    def test_what_lacks_is_known(self, lacks: dict[str, str]) -> None:
        assert set(lacks) <= set(GUARANTEES)
        assert all(lacks.values()), "a reason is needed"


def say(content: str | list[Any] = "hello", **fields: Any) -> Message:
    """A user's message."""
    return Message("user", content, **fields)


async def contents(database: Database, session_id: str = "s") -> list[Any]:
    """What a session's messages say."""
    return [message.content for message in await database.messages(session_id)]


def seqs(messages: Iterable[Message]) -> list[int]:
    """The seqs of stored messages."""
    found = [message.seq for message in messages]
    assert all(isinstance(seq, int) and seq > 0 for seq in found), found
    return [seq or 0 for seq in found]


def assert_rising(messages: Iterable[Message]) -> None:
    """Seqs strictly increase."""
    found = seqs(messages)
    assert found == sorted(set(found))


def assert_same(found: Any, expected: Any) -> None:
    """Equal, and equal as JSON too: 1, 1.0 and True are not the same, nor are 0.0 and -0.0."""
    assert found == expected
    assert type(found) is type(expected)
    if not isinstance(expected, bytes):
        assert _text(found) == _text(expected)


def _text(value: Any) -> str:
    return json.dumps(value.to_dict() if isinstance(value, Record) else value, sort_keys=True)


async def keys(scope: StateScope, prefix: str = "", **options: Any) -> list[str]:
    """The keys that a scan gives."""
    return [item.key for item in await scope.scan(prefix, **options)]


async def eventually(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until the condition holds; fail if it does not in `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110  a store has no events to wait for
            await asyncio.sleep(0.02)


async def gone(database: Database, session_id: str = "s") -> None:
    """Wait until a session has expired."""

    async def invisible() -> bool:
        return await database.session(session_id) is None

    await eventually(invisible)
