"""What reading promises: the newest, bounds, batches, and what an unknown session gives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from agentstore.errors import InvalidInputError, SessionNotFoundError

from .common import Contract, assert_rising, contents, guarantee, say, seqs

if TYPE_CHECKING:
    from agentstore.database import Database
    from agentstore.records import Message

HUGE = 10**30


def expected(stored: list[Message], limit: int | None, before: int | None, after: int | None) -> list[Message]:
    """What `Database.messages` promises, said in one line per rule."""
    found = [m for m, seq in zip(stored, seqs(stored), strict=True) if seq < (before or HUGE) and seq > (after or 0)]
    if limit is None:
        return found
    if after is not None and before is None:
        return found[:limit]
    return found[max(0, len(found) - limit) :]


class ReadContract(Contract):
    """`messages`, `iter_messages`, `pop` and `clear`."""

    async def _talk(self, database: Database) -> list[Message]:
        """Nine messages, with holes in their seqs and one append of several."""
        await database.append("s", [say("0"), say("1"), say("2")])
        await database.append("s", say("gone"))
        await database.pop("s")
        for number in range(3, 9):
            await database.append("s", say(str(number)))
        return await database.messages("s")

    async def test_limit_and_bounds(self, database: Database) -> None:
        stored = await self._talk(database)
        assert [m.content for m in stored] == [str(number) for number in range(9)]
        known = seqs(stored)
        bounds = (None, 1, known[0], known[2], known[2] + 1, known[3], known[8], known[8] + 1, HUGE)
        for limit in (None, 0, 1, 2, 8, 9, 10, HUGE):
            for before in bounds:
                for after in (0, *bounds):
                    found = await database.messages("s", limit=limit, before=before, after=after)
                    assert found == expected(stored, limit, before, after), (limit, before, after)

    async def test_paging_both_ways_meets_every_message_once(self, database: Database) -> None:
        stored = await self._talk(database)
        back: list[Message] = []
        while page := await database.messages("s", limit=2, before=back[0].seq if back else None):
            back = page + back
        forth: list[Message] = []
        while page := await database.messages("s", limit=2, after=forth[-1].seq if forth else 0):
            forth += page
        assert back == forth == stored

    @pytest.mark.parametrize("batch_size", [1, 2, 9, 10, 500])
    async def test_iter_messages(self, database: Database, batch_size: int) -> None:
        stored = await self._talk(database)
        assert [message async for message in database.iter_messages("s", batch_size=batch_size)] == stored

    async def test_iter_messages_while_another_appends(self, database: Database) -> None:
        stored = await self._talk(database)
        found: list[Message] = []
        async for message in database.iter_messages("s", batch_size=2):
            found.append(message)
            if len(found) < 12:
                await database.append("s", say("meanwhile"))
        assert_rising(found)
        assert found[:9] == stored
        assert set(map(str, found)) <= set(map(str, await database.messages("s")))

    async def test_iter_messages_can_be_left(self, database: Database) -> None:
        stored = await self._talk(database)
        iterator = database.iter_messages("s", batch_size=2)
        assert await anext(iterator) == stored[0]
        assert await database.clear("s") == 9

    @pytest.mark.parametrize(
        "arguments",
        [
            {"limit": -1},
            {"limit": 1.5},
            {"limit": "1"},
            {"before": "a"},
            {"after": "a"},
            {"before": 1.5},
            {"after": []},
        ],
        ids=str,
    )
    async def test_bounds_of_the_wrong_kind(self, database: Database, arguments: dict[str, Any]) -> None:
        with pytest.raises(InvalidInputError):
            await database.messages("s", **arguments)

    async def test_an_unknown_session(self, database: Database) -> None:
        assert await database.messages("s") == []
        assert [message async for message in database.iter_messages("s")] == []
        assert await database.session("s") is None
        assert await database.pop("s") == []
        assert await database.clear("s") == 0
        assert await database.delete_session("s") is False
        assert (await database.sessions()).items == ()
        for call in (database.fork("s"), database.export_session("s"), database.update_session("s", title="t")):
            with pytest.raises(SessionNotFoundError):
                await call
        assert await database.session("s") is None

    async def test_every_read_sees_what_was_acknowledged(self, database: Database) -> None:
        async def talk(name: str) -> None:
            for turn in range(5):
                (stored,) = await database.append(name, say(str(turn)))
                assert (await database.messages(name, limit=1)) == [stored]
                session = await database.session(name)
                assert session is not None
                assert (session.message_count, session.last_seq) == (turn + 1, stored.seq)
                assert name in [session.id for session in (await database.sessions()).items]

        await asyncio.gather(*(talk(f"s{number}") for number in range(16)))

    async def test_readers_at_once_get_their_own(self, database: Database) -> None:
        for number in range(8):
            await database.append(f"s{number}", [say(f"{number}:{part}") for part in range(number)])
        answers = await asyncio.gather(*(database.messages(f"s{n % 9}", limit=n % 5) for n in range(90)))
        for n, answer in enumerate(answers):
            said = [f"{n % 9}:{part}" for part in range(n % 9 if n % 9 < 8 else 0)]
            assert [m.content for m in answer] == (said[-(n % 5) :] if n % 5 else [])

    # --- pop and clear ---

    async def test_pop_gives_the_newest_oldest_first(self, database: Database) -> None:
        stored = await self._talk(database)
        assert await database.pop("s") == stored[8:]
        assert await database.pop("s", 3) == stored[5:8]
        assert await database.messages("s") == stored[:5]
        assert await database.pop("s", 0) == []
        assert await database.pop("s", count=100) == stored[:5]
        assert await database.pop("s") == []
        session = await database.session("s")
        assert session is not None, "an emptied session is still there"
        assert session.message_count == 0

    async def test_pop_and_clear_touch_the_session(self, database: Database) -> None:
        await database.append("s", [say(), say()])
        before = await database.session("s")
        await database.pop("s")
        popped = await database.session("s")
        assert await database.clear("s") == 1
        cleared = await database.session("s")
        assert before is not None
        assert popped is not None
        assert cleared is not None
        assert before.last_seq < popped.last_seq < cleared.last_seq
        assert before.updated_at <= popped.updated_at <= cleared.updated_at
        assert [before.message_count, popped.message_count, cleared.message_count] == [2, 1, 0]
        assert await database.clear("s") == 0
        assert await database.messages("s") == []

    @pytest.mark.parametrize("count", [-1, 1.5, "1", None, True])
    async def test_pop_counts(self, database: Database, count: Any) -> None:
        await database.append("s", say())
        with pytest.raises(InvalidInputError):
            await database.pop("s", count)
        assert await contents(database) == ["hello"]

    @guarantee("pop")
    async def test_racing_pops_give_each_message_once(self, database: Database) -> None:
        stored = await database.append("s", [say(str(number)) for number in range(40)])
        popped = await asyncio.gather(*(database.pop("s", 2) for _ in range(30)))
        assert sorted(seqs(m for part in popped for m in part)) == seqs(stored)
        assert await database.messages("s") == []

    async def test_appends_and_pops_at_once_lose_nothing(self, database: Database) -> None:
        async def write(number: int) -> None:
            await database.append("s", [say(f"{number}:0"), say(f"{number}:1")])

        async def take() -> list[Message]:
            return await database.pop("s", 1)

        work = [write(number) if number % 2 else take() for number in range(WRITES)]
        taken = [m.content for part in await asyncio.gather(*work) if part for m in part]
        left = await database.messages("s")
        assert_rising(left)
        assert sorted(map(str, taken + [m.content for m in left])) == sorted(
            f"{number}:{part}" for number in range(1, WRITES, 2) for part in range(2)
        )


WRITES = 60
