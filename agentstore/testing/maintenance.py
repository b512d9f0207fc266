"""What a layer that seals, and one who walks over a whole store, need of a driver."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from agentstore.checks import MAX_BYTES
from agentstore.drivers import registry
from agentstore.errors import ConflictError, MessageTooLargeError
from agentstore.options import PoolOptions
from agentstore.protocol import KEEP, Append, DeleteKeys, GetItems, Head, Mark, SetItems
from agentstore.url import StoreURL

from .common import TTL, eventually
from .marks import StoreFixture
from .texts import IDS

if TYPE_CHECKING:
    from agentstore.protocol import Backend
    from agentstore.records import StateItem

HOUR = timedelta(hours=1)


async def _item(store: Backend, key: str = "k") -> StateItem:
    (found,) = await store.get_items([GetItems("n", (key,))])
    assert isinstance(found, dict)
    return found[key]


class MaintenanceContract(StoreFixture):
    """Namespaces one by one, sets that keep an expiry, and room for metadata that is sealed."""

    async def test_namespaces_are_listed_in_order(self, store: Backend) -> None:
        names = ["", *IDS]
        assert await store.namespaces() == []
        for name in names:
            await store.write_items([SetItems(name, {"a": 1, "b": 2})])
        expected = sorted(names)
        assert await store.namespaces() == expected
        assert await store.namespaces(limit=1) == expected[:1]
        for limit in (7, len(names) - 1, len(names)):
            found: list[str] = []
            after = None
            while page := await store.namespaces(after, limit):
                assert len(page) <= limit
                found += page
                after = page[-1]
            assert found == expected
        for after in (*names[::9], "aa", "a:a:a", "x" * 100, "😀" * 2, "\U0010ffff" * 2):
            assert await store.namespaces(after) == [name for name in expected if name > after]

    async def test_a_namespace_without_keys_is_none(self, store: Backend) -> None:
        gone = SetItems("gone", {"a": 1}, mark=Mark("q", 1))  # what stays of it is no key
        await store.write_items([gone, SetItems("here", {"a": 1, "b": 1})])
        await store.write_items([DeleteKeys("gone", ("a",)), DeleteKeys("here", ("a",))])
        assert await store.namespaces() == ["here"]

    async def test_an_expired_namespace_goes_with_a_purge(self, store: Backend) -> None:
        await store.write_items([SetItems("n", {"a": 1}, timedelta(seconds=TTL))])

        async def purged() -> bool:
            await store.purge_state()
            return await store.namespaces() == []

        await eventually(purged)

    async def test_a_set_may_keep_the_expiry(self, store: Backend) -> None:
        await store.write_items([SetItems("n", {"k": 1}, HOUR), SetItems("n", {"for ever": 1})])
        before, lasting = await _item(store), await _item(store, "for ever")
        outcomes = await store.write_items(
            [
                SetItems("n", {"k": 2}, KEEP, before.version),
                SetItems("n", {"for ever": 2}, KEEP, lasting.version),
                SetItems("n", {"new": 2}, KEEP, 0),
                SetItems("n", {"k": 3}, KEEP, before.version),
            ]
        )
        assert isinstance(outcomes[3], ConflictError)
        after = await _item(store)
        assert (after.value, after.expires_at) == (2, before.expires_at)
        assert after.version > before.version
        for key in ("for ever", "new"):
            item = await _item(store, key)
            assert (item.value, item.expires_at) == (2, None)

    async def test_sealed_metadata_has_more_room(self, database_url: str) -> None:
        store = registry.load(StoreURL.parse(database_url), PoolOptions())  # itself: a layer that seals sets the room
        await store.aopen()
        try:
            await self._fill(store)
        finally:
            await store.aclose()

    async def _fill(self, store: Backend) -> None:
        room = 12 * 2**20
        half = "x" * (5 * 2**20)
        ops = [Append("s", metadata={name: half}, metadata_room=room) for name in "ab"]
        assert await store.append(ops) == [[], []]
        (refused,) = await store.append([Append("s", metadata={"c": "x" * (MAX_BYTES // 2)}, metadata_room=room)])
        assert isinstance(refused, MessageTooLargeError)
        (refused,) = await store.append([Append("s", metadata={"c": 1})])
        assert isinstance(refused, MessageTooLargeError)
        (head,) = await store.heads([Head("s")])
        assert getattr(head, "metadata", None) == {"a": half, "b": half}
