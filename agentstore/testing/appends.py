"""What an append promises: order, once, all or none, and the seq that was expected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentstore.errors import AccessDeniedError, ConflictError, InvalidInputError
from agentstore.records import Message

from .common import Contract, assert_rising, contents, guarantee, say, seqs

if TYPE_CHECKING:
    from agentstore.database import Database

WRITERS = 64


class AppendContract(Contract):
    """`Database.append`, alone and in a crowd."""

    async def test_append_returns_what_is_stored(self, database: Database) -> None:
        sent = [say("one"), Message("assistant", "two", name="bot", metadata={"a": 1}, run_id="r")]
        stored = await database.append("s", sent)
        assert [(m.id, m.content, m.name, m.run_id) for m in stored] == [
            (m.id, m.content, m.name, m.run_id) for m in sent
        ]
        assert_rising(stored)
        assert await database.messages("s") == stored

    async def test_messages_may_be_one_or_several_and_dicts(self, database: Database) -> None:
        await database.append("s", say("one"))
        await database.append("s", {"role": "user", "content": "two"})
        await database.append("s", [{"role": "user", "content": "three"}, say("four")])
        assert await contents(database) == ["one", "two", "three", "four"]

    async def test_an_empty_append_creates_the_session(self, database: Database) -> None:
        assert await database.append("s", [], user_id="u", agent="a", metadata={"k": 1}) == []
        session = await database.session("s")
        assert session is not None
        assert (session.user_id, session.agent, session.metadata, session.message_count) == ("u", "a", {"k": 1}, 0)

    async def test_the_session_of_an_append(self, database: Database) -> None:
        first = await database.append("s", say(), user_id="u", agent="a", metadata={"k": 1, "l": {"m": 1}})
        before = await database.session("s")
        last = await database.append("s", [say(), say()], agent="b", metadata={"l": {"n": 2}, "o": None})
        after = await database.session("s")
        assert before is not None
        assert after is not None
        assert (before.message_count, before.last_seq) == (1, first[-1].seq)
        assert (after.message_count, after.last_seq) == (3, last[-1].seq)
        assert (after.user_id, after.agent) == ("u", "a"), "set by the append that creates the session"
        assert after.metadata == {"k": 1, "l": {"n": 2}, "o": None}, "merged at the top level"
        assert after.created_at == before.created_at <= before.updated_at <= after.updated_at

    async def test_writers_at_once_keep_their_order(self, database: Database) -> None:
        async def write(writer: int) -> None:
            for turn in range(5):
                stored = await database.append("s", [say(f"{writer}:{turn}:{part}") for part in range(2)])
                assert [m.content for m in stored] == [f"{writer}:{turn}:{part}" for part in range(2)]

        await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
        messages = await database.messages("s")
        assert_rising(messages)
        said = [str(message.content) for message in messages]
        assert len(said) == len(set(said)) == WRITERS * 10
        for writer in range(WRITERS):
            own = [text for text in said if text.startswith(f"{writer}:")]
            assert own == [f"{writer}:{turn}:{part}" for turn in range(5) for part in range(2)]
        assert all(text.endswith(":0") for text in said[::2]), "an append is contiguous"
        assert [t.rpartition(":")[0] for t in said[::2]] == [t.rpartition(":")[0] for t in said[1::2]]

    async def test_appends_issued_in_order_are_stored_in_order(self, database: Database) -> None:
        await asyncio.gather(*(database.append("s", say(str(number))) for number in range(50)))
        assert await contents(database) == [str(number) for number in range(50)]

    async def test_sessions_written_at_once_stay_apart(self, database: Database) -> None:
        async def talk(number: int) -> None:
            for turn in range(4):
                await database.append(f"s{number}", say(f"{number}:{turn}"))

        await asyncio.gather(*(talk(number) for number in range(WRITERS)))
        for number in range(WRITERS):
            assert await contents(database, f"s{number}") == [f"{number}:{turn}" for turn in range(4)]

    # --- once ---

    async def test_a_retry_stores_nothing(self, database: Database) -> None:
        sent = [say("one"), say("two")]
        stored = await database.append("s", sent)
        await database.append("s", say("three"))
        head = await database.session("s")
        assert await database.append("s", sent) == stored
        assert await database.append("s", sent[1]) == stored[1:]
        assert await database.append("s", sent[::-1]) == stored[::-1]
        assert await contents(database) == ["one", "two", "three"]
        assert await database.session("s") == head

    async def test_a_retry_with_other_content_gives_the_original(self, database: Database) -> None:
        stored = await database.append("s", say("one", id="m", metadata={"a": 1}))
        assert await database.append("s", Message("assistant", "changed", id="m")) == stored
        assert await database.messages("s") == stored

    async def test_the_rest_of_a_partly_stored_append_is_stored(self, database: Database) -> None:
        sent = [say(text) for text in "abcd"]
        first = await database.append("s", [sent[1]])
        between = await database.append("s", say("between"))
        stored = await database.append("s", sent)
        assert [m.content for m in stored] == list("abcd")
        assert stored[1] == first[0]
        assert await database.messages("s") == [*first, *between, stored[0], stored[2], stored[3]]
        assert_rising(await database.messages("s"))

    async def test_retries_at_once_store_one_copy(self, database: Database) -> None:
        sent = [say("one"), say("two")]
        answers = await asyncio.gather(*(database.append("s", sent) for _ in range(16)))
        assert all(answer == answers[0] for answer in answers)
        assert await database.messages("s") == answers[0]

    async def test_an_id_twice_in_one_append_is_refused(self, database: Database) -> None:
        with pytest.raises(InvalidInputError):
            await database.append("s", [say("one", id="m"), say("two", id="n"), say("three", id="m")])
        assert await database.session("s") is None

    async def test_an_id_belongs_to_its_session(self, database: Database) -> None:
        await database.append("s", say("one", id="m"))
        await database.append("t", say("two", id="m"))
        assert (await contents(database, "s"), await contents(database, "t")) == (["one"], ["two"])

    @pytest.mark.parametrize("removal", ["pop", "clear", "delete_session"])
    async def test_removed_messages_free_their_ids(self, database: Database, removal: str) -> None:
        first = await database.append("s", say("one", id="m"))
        await getattr(database, removal)("s")
        second = await database.append("s", say("two", id="m"))
        assert await database.messages("s") == second
        assert seqs(second) > seqs(first)
        assert await contents(database) == ["two"]

    # --- all or none ---

    async def test_a_bad_message_takes_its_append_with_it(self, database: Database) -> None:
        with pytest.raises(InvalidInputError):
            await database.append("s", [say("good"), say("bad", metadata={"x": float("nan")})])
        assert await database.session("s") is None

    async def test_a_bad_append_fails_alone(self, database: Database) -> None:
        await database.append("theirs", say("theirs"), user_id="them")
        head = await database.append("s", say("first"))

        async def write(number: int) -> list[Message]:
            if number % 4 == 1:
                return await database.append("theirs", [say("mine"), say("mine")], user_id="me")
            if number % 4 == 3:
                return await database.append("s", say("stale"), expected_seq=seqs(head)[0] + 1_000_000)
            return await database.append("s" if number % 8 else "t", [say(str(number)), say(str(number))])

        outcomes = await asyncio.gather(*(write(number) for number in range(WRITERS)), return_exceptions=True)
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [list, AccessDeniedError, list, ConflictError] * (WRITERS // 4)
        assert await contents(database, "theirs") == ["theirs"]
        pairs = {name: [str(n) for n in range(0, WRITERS, 2) if bool(n % 8) == (name == "s")] for name in "st"}
        assert await contents(database, "s") == ["first", *(text for text in pairs["s"] for _ in range(2))]
        assert await contents(database, "t") == [text for text in pairs["t"] for _ in range(2)]

    async def test_readers_see_an_append_whole_or_not_at_all(self, database: Database) -> None:
        async def write(number: int) -> None:
            await database.append("s", [say(f"{number}:{part}") for part in range(3)])

        async def read() -> None:
            assert len(await database.messages("s")) % 3 == 0
            session = await database.session("s")
            assert session is None or session.message_count % 3 == 0

        await asyncio.gather(*(write(number) if number % 2 else read() for number in range(WRITERS)))
        assert len(await database.messages("s")) == WRITERS // 2 * 3

    # --- expected_seq ---

    async def test_expected_seq_is_the_last_seq(self, database: Database) -> None:
        (first,) = await database.append("s", say("one"), expected_seq=0)
        between, second = await database.append("s", [say("1½"), say("two")], expected_seq=first.seq)
        for stale in (0, first.seq, between.seq, seqs([second])[0] + 1):
            with pytest.raises(ConflictError):
                await database.append("s", say("stale"), expected_seq=stale, metadata={"stale": True})
            with pytest.raises(ConflictError):
                await database.append("s", [], expected_seq=stale)
        session = await database.session("s")
        assert session is not None
        assert (session.metadata, session.last_seq) == ({}, second.seq)
        assert await contents(database) == ["one", "1½", "two"]
        with pytest.raises(ConflictError):
            await database.append("new", say("two"), expected_seq=second.seq)
        assert await database.session("new") is None

    async def test_expected_seq_counts_what_was_removed(self, database: Database) -> None:
        (only,) = await database.append("s", say("one"))
        await database.pop("s")
        session = await database.session("s")
        assert session is not None
        with pytest.raises(ConflictError):
            await database.append("s", say("two"), expected_seq=only.seq)
        await database.append("s", say("two"), expected_seq=session.last_seq)
        await database.delete_session("s")
        with pytest.raises(ConflictError):
            await database.append("s", say("three"), expected_seq=session.last_seq)
        await database.append("s", say("three"), expected_seq=0)
        assert await contents(database) == ["three"]

    async def test_a_retry_of_what_is_stored_succeeds_whatever_came_since(self, database: Database) -> None:
        one, two = say("one"), say("two")
        stored = await database.append("s", one, expected_seq=0)
        await database.append("s", say("since"))
        assert await database.append("s", one, expected_seq=0) == stored
        with pytest.raises(ConflictError):  # part of it would be new
            await database.append("s", [one, two], expected_seq=0)
        assert await contents(database) == ["one", "since"]

    @guarantee("expected_seq")
    async def test_of_racing_writers_that_expect_one_seq_one_wins(self, database: Database) -> None:
        expected = 0
        for turn in range(3):
            outcomes = await asyncio.gather(
                *(database.append("s", say(f"{turn}:{n}"), expected_seq=expected) for n in range(WRITERS)),
                return_exceptions=True,
            )
            won = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
            assert len(won) == 1
            assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == WRITERS - 1
            expected = seqs(won[0])[0]
        assert len(await contents(database)) == 3

    # --- seqs and copies ---

    @pytest.mark.parametrize("removal", ["pop", "clear", "delete_session"])
    async def test_seqs_are_never_used_again(self, database: Database, removal: str) -> None:
        used: list[int] = []
        for _ in range(3):
            used += seqs(await database.append("s", [say(), say()]))
            session = await database.session("s")
            await getattr(database, removal)("s")
            after = await database.session("s")
            assert session is not None
            if after is not None:
                assert after.last_seq > session.last_seq, "a removal consumes one"
                used.append(after.last_seq)
        assert used == sorted(set(used))

    async def test_what_was_passed_in_is_the_caller_s(self, database: Database) -> None:
        parts, metadata = [{"type": "text", "text": "as sent"}], {"k": ["as sent"]}
        await database.append("s", say(parts, metadata=metadata), metadata=metadata)
        parts[0]["text"] = metadata["k"][0] = "changed"
        await self._check_as_sent(database)

    async def test_what_was_read_is_the_caller_s(self, database: Database) -> None:
        parts, metadata = [{"type": "text", "text": "as sent"}], {"k": ["as sent"]}
        sent = say(parts, metadata=metadata)
        copies = [*await database.append("s", sent, metadata=metadata), *await database.append("s", sent)]
        copies += [*await database.messages("s"), *[message async for message in database.iter_messages("s")]]
        heads = [await database.session("s"), (await database.sessions()).items[0]]
        for copy in copies:
            if copy.content is not parts:
                copy.content[0]["text"] = copy.metadata["k"][0] = "changed"  # type: ignore[index]
        for head in heads:
            assert head is not None
            head.metadata["k"][0] = "changed"
        await self._check_as_sent(database)

    async def _check_as_sent(self, database: Database) -> None:
        (message,) = await database.messages("s")
        session = await database.session("s")
        assert session is not None
        assert message.content == [{"type": "text", "text": "as sent"}]
        assert message.metadata == session.metadata == {"k": ["as sent"]}
