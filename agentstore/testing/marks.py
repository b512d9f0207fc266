"""What a write-behind queue needs of a store: marks that outlive what they are for, and a look at single ids."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from agentstore.drivers import registry
from agentstore.errors import AccessDeniedError, AgentstoreError
from agentstore.options import PoolOptions
from agentstore.protocol import Append, Change, DeleteKeys, Find, GetItems, Head, Mark, Read, SetItems
from agentstore.records import ToolCall
from agentstore.url import StoreURL

from .common import TTL, Contract, eventually, guarantee, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentstore.protocol import Backend
    from agentstore.records import Message, Session


_ROUNDS, _WRITERS = 10, 4


class StoreFixture(Contract):
    """The driver itself, without what a Database puts around it."""

    @pytest.fixture
    async def store(self, database_url: str) -> AsyncIterator[Backend]:
        """Open, and closed after the test."""
        store = registry.load(StoreURL.parse(database_url), PoolOptions(size=3))
        await store.aopen()
        yield store
        await store.aclose()


async def _append(store: Backend, *ops: Append) -> list[list[Message]]:
    outcomes = await store.append(ops)
    assert not [outcome for outcome in outcomes if isinstance(outcome, AgentstoreError)], outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, list)]


async def _write(store: Backend, *ops: SetItems | DeleteKeys) -> list[int]:
    outcomes = await store.write_items(ops)
    assert not [outcome for outcome in outcomes if isinstance(outcome, AgentstoreError)], outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, int)]


async def _said(store: Backend, session_id: str = "s") -> list[object]:
    (found,) = await store.read([Read(session_id)])
    assert isinstance(found, list)
    return [message.content for message in found]


async def _head(store: Backend, session_id: str = "s") -> Session:
    (head,) = await store.heads([Head(session_id)])
    assert head is not None
    assert not isinstance(head, AgentstoreError)
    return head


async def _values(store: Backend, *keys: str) -> dict[str, object]:
    (found,) = await store.get_items([GetItems("n", keys)])
    assert isinstance(found, dict)
    return {key: item.value for key, item in found.items()}


def _ops(count: int, queue: str = "q") -> list[Append]:
    return [Append("s", (say(f"{queue}{n}"),), mark=Mark(queue, n)) for n in range(1, count + 1)]


class MarkContract(StoreFixture):
    """A write that comes again from a journal changes nothing, whatever was done in between."""

    async def test_a_replay_stores_nothing_twice(self, store: Backend) -> None:
        ops = _ops(3)
        first = await _append(store, *ops)
        head = await _head(store)
        assert await _append(store, *ops) == first
        assert await _said(store) == ["q1", "q2", "q3"]
        assert await _head(store) == head, "it has not even been touched"

    async def test_what_was_popped_stays_away(self, store: Backend) -> None:
        ops = _ops(3)
        await _append(store, *ops[:2])
        await _append(store, ops[2])
        assert [message.content for message in await store.pop("s", 2)] == ["q2", "q3"]
        for op in ops:
            await _append(store, op)
        assert await _said(store) == ["q1"]
        (answer,) = await _append(store, ops[2])
        assert [(message.id, message.seq) for message in answer] == [(ops[2].messages[0].id, None)]

    async def test_what_was_cleared_or_deleted_stays_away(self, store: Backend) -> None:
        ops = _ops(3)
        await _append(store, *ops)
        assert await store.clear("s") == 3
        await _append(store, *ops)
        assert await _said(store) == []
        assert await store.delete("s")
        await _append(store, *ops)
        assert await store.heads([Head("s")]) == [None]
        await _append(store, Append("s", (say("anew"),)))
        await _append(store, *ops)
        assert await _said(store) == ["anew"]

    async def test_what_has_expired_stays_away(self, store: Backend) -> None:
        ops = _ops(2)
        await _append(store, *ops)
        await store.update(Change("s", ttl=timedelta(seconds=TTL)))

        async def invisible() -> bool:
            return await store.heads([Head("s")]) == [None]

        await eventually(invisible)
        await _append(store, *ops)
        assert await store.heads([Head("s")]) == [None]
        await store.purge_sessions()
        await _append(store, *ops)
        assert await store.heads([Head("s")]) == [None]

    async def test_an_update_keeps_the_marks(self, store: Backend) -> None:
        ops = _ops(2)
        await _append(store, *ops)
        await store.update(Change("s", title="t", metadata={"a": 1}))
        await _append(store, Append("s", (say("plain"),), metadata={"b": 2}))
        assert len(await store.pop("s", 2)) == 2
        await _append(store, *ops)
        assert await _said(store) == ["q1"]

    async def test_a_session_restored_over_a_deleted_one_keeps_its_marks(self, store: Backend) -> None:
        ops = _ops(2)
        await _append(store, *ops)
        (messages,) = await store.read([Read("s")])
        assert isinstance(messages, list)
        head = await _head(store)
        await store.delete("s")
        await store.restore(replace(head, message_count=1), messages[:1])
        await _append(store, *ops)
        assert await _said(store) == ["q1"]

    async def test_queues_do_not_know_one_another(self, store: Backend) -> None:
        a, b = _ops(3, "a"), _ops(3, "b")
        await _append(store, a[0], b[0], a[1])
        await _append(store, b[1])
        await _append(store, *a, *b)
        assert await _said(store) == ["a1", "b1", "a2", "b2", "a3", "b3"]
        await store.clear("s")
        await _append(store, *a, *b)
        assert await _said(store) == []

    async def test_an_id_known_before_is_marked_too(self, store: Backend) -> None:
        op = _ops(1)[0]
        await _append(store, replace(op, mark=None))
        await _append(store, op)
        await store.pop("s", 1)
        await _append(store, op)
        assert await _said(store) == [], "the write had come, and had found its id there"

    async def test_a_stranger_s_replay_is_refused(self, store: Backend) -> None:
        await _append(store, Append("s", (say(),), user_id="ann", mark=Mark("q", 1)))
        (outcome,) = await store.append([Append("s", (say(),), user_id="bob", mark=Mark("q", 2))])
        assert isinstance(outcome, AccessDeniedError)
        (outcome,) = await store.append([Append("s", (say("mine"),), user_id="ann", mark=Mark("q", 2))])
        assert isinstance(outcome, list)
        assert await _said(store) == ["hello", "mine"], "what was refused has moved no mark"

    async def test_a_replayed_set_is_older_than_what_came_since(self, store: Backend) -> None:
        ops = [SetItems("n", {"k": number}, mark=Mark("q", number)) for number in (1, 2, 3)]
        await _write(store, *ops)
        await _write(store, SetItems("n", {"k": "newer"}))
        await _write(store, *ops)
        assert await _values(store, "k") == {"k": "newer"}

    @guarantee("replayed deletions")
    async def test_a_replayed_set_brings_nothing_back(self, store: Backend) -> None:
        several = SetItems("n", {"k": 1, "l": 2}, mark=Mark("q", 7))
        await _write(store, several)
        await _write(store, DeleteKeys("n", ("k",)))
        assert await _write(store, several) == [0]
        assert await _values(store, "k", "l") == {"l": 2}
        await _write(store, DeleteKeys("n", ("l",)))
        assert await _write(store, several) == [0]
        assert await _values(store, "k", "l") == {}
        other = SetItems("other", {"k": 1}, mark=Mark("q", 7))
        assert await _write(store, other) != [0], "namespaces have marks of their own"

    async def test_marks_of_sets_rise_with_the_writes(self, store: Backend) -> None:
        for number in (1, 2):
            for queue in ("a", "b"):
                version = await _write(store, SetItems("n", {"k": f"{queue}{number}"}, mark=Mark(queue, number)))
                assert version[0] > 0
        await _write(store, *(SetItems("n", {"k": "old"}, mark=Mark(queue, 2)) for queue in "ab"))
        assert await _values(store, "k") == {"k": "b2"}


class FindContract(StoreFixture):
    """Single messages by id, and texts put in place of others."""

    async def test_ids_are_found(self, store: Backend) -> None:
        messages = [say(str(number), metadata={"n": number}) for number in range(5)]
        (stored,) = await _append(store, Append("s", tuple(messages)))
        await _append(store, Append("t", (messages[0],)))
        ids = [message.id for message in messages]
        found = await store.find(
            [
                Find("s", ids=(ids[3], "unknown", ids[1])),
                Find("t", ids=tuple(ids)),
                Find("none", ids=tuple(ids)),
                Find("s", ids=()),
            ]
        )
        (in_t,) = await store.read([Read("t")])
        assert isinstance(in_t, list)
        assert found == [{ids[3]: stored[3], ids[1]: stored[1]}, {ids[0]: in_t[0]}, {}, {}]
        await store.pop("s", 2)
        assert await store.find([Find("s", ids=tuple(ids))]) == [dict(zip(ids[:3], stored, strict=False))]

    async def test_only_the_owner_finds(self, store: Backend) -> None:
        (stored,) = await _append(store, Append("s", (say(),), user_id="ann"))
        ids = (stored[0].id,)
        mine, anyone, stranger = await store.find([Find("s", user, ids) for user in ("ann", None, "bob")])
        assert mine == anyone == {ids[0]: stored[0]}
        assert isinstance(stranger, AccessDeniedError)

    async def test_texts_are_rewritten_and_nothing_else(self, store: Backend) -> None:
        calls = (ToolCall("c", "f", "{}"),)
        messages = (
            say("one"),
            say("two", tool_calls=calls, tool_call_id="x", name="n", metadata={"a": 1}),
            say("three"),
        )
        (stored,) = await _append(store, Append("s", messages, user_id="u", agent="a", metadata={"m": 1}))
        before = await store.update(Change("s", title="title"))
        other = (ToolCall("C", "F", "[]"),)
        texts = replace(stored[1], role="other", run_id="r", content=["TWO"], tool_calls=other, name="N", metadata={})
        texts = replace(texts, tool_call_id=None)
        assert await store.rewrite(replace(before, title="TITLE", metadata={"M": 2}, agent="b", last_seq=9), [texts])
        assert await _head(store) == replace(before, title="TITLE", metadata={"M": 2})
        (found,) = await store.read([Read("s")])
        expected = replace(stored[1], content=["TWO"], tool_calls=other, tool_call_id=None, name="N", metadata={})
        assert found == [stored[0], expected, stored[2]]
        (again,) = await _append(store, Append("s", (messages[1], say("four"))))
        assert again[0] == expected
        assert await _said(store) == ["one", ["TWO"], "three", "four"]

    async def test_what_is_rewritten_meanwhile_stays_so(self, store: Backend) -> None:
        async def rewrite(name: str) -> None:
            done = False
            while not done:
                head = await _head(store)
                done = await store.rewrite(replace(head, title=name, metadata={**head.metadata, "m": name}), [])

        await _append(store, Append("s", (say(),)))
        for number in range(_ROUNDS):
            name = f"new {number}"
            writes = [_append(store, Append("s", (say(),), metadata={f"{n}": number})) for n in range(_WRITERS)]
            await asyncio.gather(*writes, rewrite(name))
            head = await _head(store)
            assert (head.title, head.metadata) == (name, {"m": name, **{f"{n}": number for n in range(_WRITERS)}})
            assert head.message_count == 1 + _WRITERS * (number + 1)

    async def test_a_session_that_has_changed_is_not_rewritten(self, store: Backend) -> None:
        (stored,) = await _append(store, Append("s", (say("one"), say("two"))))
        before = await _head(store)
        await store.pop("s", 1)
        texts = [replace(message, content="new") for message in stored]
        assert not await store.rewrite(replace(before, title="new"), texts)
        assert await _said(store) == ["one"]
        assert (await _head(store)).title is None
        assert await store.rewrite(await _head(store), texts), "what is gone is left out"
        assert await _said(store) == ["new"]
        strangers = [replace(stored[0], id="another", content="x"), replace(stored[0], seq=7, content="x")]
        assert await store.rewrite(await _head(store), strangers)
        assert await _said(store) == ["new"], "seq and id must agree"
        assert not await store.rewrite(replace(before, id="none"), texts)
