"""What a store must bear when its writes come late: from the write-behind queue, and from the journals of the dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentstore.database import db
from agentstore.errors import AccessDeniedError, ConflictError
from agentstore.options import QueueOptions
from agentstore.protocol import Append, SetItems
from agentstore.queue.journal import Folder, Record, encode
from agentstore.url import StoreURL

from .common import Contract, assert_rising, contents, elsewhere, guarantee, say, seqs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agentstore.database import Database


class DeferredContract(Contract):
    """Every test once with ``durability="memory"`` and once with ``"journal"``."""

    @pytest.fixture(params=["memory", "journal"])
    def durability(self, request: pytest.FixtureRequest) -> str:
        """How durable a write is when it returns."""
        return str(request.param)

    @pytest.fixture
    def opened(self, database_url: str, options: dict[str, Any], tmp_path: Path) -> Callable[..., Database]:
        """Makes Databases on the store, whose journals are in a folder of the test's."""

        def make(durability: str) -> Database:
            queue = QueueOptions(journal_dir=tmp_path / "journals", flush_interval=0.01)
            return db(database_url, durability=durability, queue=queue, **options)

        return make

    @pytest.fixture
    async def late(self, opened: Callable[..., Database], durability: str) -> AsyncIterator[Database]:
        """A Database whose writes are deferred."""
        async with opened(durability) as database:
            yield database

    async def test_accepted_writes_are_seen_and_then_stored(self, late: Database) -> None:
        for number in range(30):
            (given,) = await late.append("abc"[number % 3], say(str(number)), metadata={"n": number})
            assert given.seq is None
            assert await late.state.set(f"k{number % 4}", number) == 0
            assert (await contents(late, "abc"[number % 3]))[-1] == str(number)
            assert await late.state.get(f"k{number % 4}") == number
        before = {name: await contents(late, name) for name in "abc"}
        heads = {name: await late.session(name) for name in "abc"}
        await late.flush()
        for start, name in enumerate("abc"):
            messages = await late.messages(name)
            assert_rising(messages)
            assert [m.content for m in messages] == before[name] == [str(n) for n in range(start, 30, 3)]
            head, pending = await late.session(name), heads[name]
            assert head is not None
            assert pending is not None
            assert (
                (head.message_count, head.metadata)
                == (pending.message_count, pending.metadata)
                == (10, {"n": 27 + start})
            )
            assert head.last_seq == seqs(messages)[-1]
        assert [item.value for item in await late.state.scan("k")] == [28, 29, 26, 27]
        assert {session.id for session in (await late.sessions()).items} == set("abc")

    async def test_what_cannot_be_late_waits(self, late: Database) -> None:
        await late.append("s", [say("one"), say("two"), say("three")])
        await late.state.set("n", 1)
        assert await late.state.increment("n") == 2
        assert [m.content for m in await late.pop("s")] == ["three"]
        await late.append("s", say("four"))
        copy = await late.fork("s", "copy")
        assert copy.message_count == 3
        await late.append("s", say("five"))
        exported = await late.export_session("s")
        assert [m["content"] for m in exported["messages"]] == ["one", "two", "four", "five"]
        await late.append("s", say("six"))
        head = await late.update_session("s", title="title")
        assert head.message_count == 5
        with pytest.raises(ConflictError):
            await late.append("s", say("seven"), expected_seq=head.last_seq + 1)
        (stored,) = await late.append("s", say("seven"), expected_seq=head.last_seq)
        assert seqs([stored])[0] > head.last_seq
        await late.append("s", say("eight"))
        assert await late.clear("s") == 7
        await late.append("s", say("nine"))
        assert await contents(late) == ["nine"]
        assert await late.delete_session("s")
        await late.append("s", say("anew"))
        assert await contents(late) == ["anew"]
        await late.flush()
        assert await contents(late) == ["anew"]

    @pytest.mark.parametrize("alike", [True, False], ids=["set up alike", "set up differently"])
    async def test_databases_of_one_process_see_each_other(
        self, late: Database, opened: Callable[..., Database], durability: str, *, alike: bool
    ) -> None:
        async with opened(durability if alike else "commit") as other:
            for number in range(0, 30, 3):
                await late.append("s", say(str(number)))
                assert (await contents(other))[-1] == str(number)
                await other.append("s", say(str(number + 1)))
                assert (await contents(late))[-1] == str(number + 1)
                await late.append("s", say(str(number + 2)))
                head = await other.session("s")
                assert head is not None
                assert head.message_count == number + 3
                await late.state.set("k", number)
                assert await other.state.get("k") == number
                assert [item.value for item in await other.state.scan()] == [number]
                await other.state.set("k", -number)
                assert await late.state.get("k") == -number
                assert [session.message_count for session in (await other.sessions()).items] == [number + 3]
            assert [message.content for message in await other.pop("s")] == ["29"]
            await late.append("s", say("late"))
            assert await other.clear("s") == 30
            assert await contents(late) == []
            await late.append("s", say("last"))
        await late.flush()
        assert await contents(late) == ["last"]

    async def test_a_late_retry_stores_nothing(self, late: Database) -> None:
        sent = [say("one"), say("two")]
        await late.append("s", sent)
        await late.append("s", sent)
        await late.flush()
        stored = await late.messages("s")
        await late.append("s", [say("changed", id=sent[0].id), say("three")])
        assert await contents(late) == ["one", "two", "three"]
        assert await late.find("s", [sent[0].id]) == {sent[0].id: stored[0]}
        await late.flush()
        assert (await late.messages("s"))[:2] == stored
        assert await contents(late) == ["one", "two", "three"]

    async def test_the_refused_fail_alone(self, late: Database, opened: Callable[..., Database]) -> None:
        async with elsewhere(opened("commit")) as other:
            assert await late.messages("s") == []
            await late.append("mine", say("one"), user_id="ann")
            await late.flush()
            await other.delete_session("mine")
            await other.append("mine", say("bob's"), user_id="bob")
            await late.append("mine", say("two"), user_id="ann")
            await late.append("s", say("good"))
            with pytest.raises(AccessDeniedError):
                await late.flush()
            await late.flush()
            assert await contents(other, "mine") == ["bob's"]
            assert await contents(other, "s") == ["good"]
            assert late.stats().queue.rejected == 1

    @guarantee("replayed deletions")
    async def test_a_journal_is_replayed_but_brings_nothing_back(
        self, opened: Callable[..., Database], database_url: str, tmp_path: Path
    ) -> None:
        messages = [say(str(number)) for number in range(6)]
        database = opened("journal")
        async with database, opened("commit") as other:
            for message in messages[:4]:
                await database.append("s", message)
            await database.append("gone", say("gone"))
            await database.state.set_many({"k": 1, "l": 1})
            await database.flush()
            assert len(await other.pop("s", 2)) == 2
            await other.delete_session("gone")
            assert await other.state.delete("k")
            await other.state.set("l", "newer")
        # as if the process had died after the backend had all but the last two, and before it had heard so
        ops: list[Append | SetItems] = [
            *(Append("s", (message,)) for message in messages[:4]),
            Append("gone", (say("gone"),)),
        ]
        ops += [SetItems("", {"k": 1, "l": 1}), *(Append("s", (message,)) for message in messages[4:])]
        queue = database._stacks.sides[0].queue  # noqa: SLF001  its name is in the marks
        assert queue is not None
        folder = Folder(tmp_path / "journals", StoreURL.parse(database_url))
        folder.keep(queue.scribe.id, [Record(place, encode(op)) for place, op in enumerate(ops, 1)])
        for replayed in (8, 0):
            async with opened("commit") as fresh:
                assert fresh.stats().queue.replayed == replayed
                assert await contents(fresh) == ["0", "1", "4", "5"]
                assert await fresh.session("gone") is None
                assert await fresh.state.get_many(["k", "l"]) == {"l": "newer"}
