"""What ids, texts and JSON promise: they come back exactly, or are refused with nothing stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from agentstore.checks import MAX_BYTES
from agentstore.errors import InvalidInputError, MessageTooLargeError
from agentstore.records import Message, ToolCall, new_id

from .common import Contract, assert_same, contents, say
from .texts import BAD_IDS, EXAMPLES, IDS, NO_JSON, TEXTS, VALUES, messages, objects

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentstore.database import Database

FULL = {
    "ASCII": "x" * MAX_BYTES,
    "4-byte": "😀" * (MAX_BYTES // 4),
    "everything": ("aß\x00\ud83d😀\x1a" + "plain text, " * 3) * (MAX_BYTES // 48) + "x" * (MAX_BYTES % 48),
}

BIG: dict[str, Callable[[int], Message]] = {
    "text": lambda size: say("x" * size),
    "4-byte text": lambda size: say("😀" * (size // 4) + "x"),
    "parts": lambda size: say([{"text": "x" * size}]),
    "metadata": lambda size: say("", metadata={"a": "x" * size}),
    "tool call": lambda size: say("", tool_calls=(ToolCall("c", "f", "x" * size),)),
    "text and metadata": lambda size: say("x" * (size // 2), metadata={"a": "x" * (size // 2 + 1)}),
}


class IdContract(Contract):
    """Ids are compared exactly, whatever they look like."""

    async def test_session_ids_are_exact(self, database: Database) -> None:
        for number, name in enumerate(IDS):
            await database.append(name, say(str(number)), user_id=name, agent=name)
        for number, name in enumerate(IDS):
            assert await contents(database, name) == [str(number)]
        listed = (await database.sessions(limit=len(IDS) + 1)).items
        assert {session.id for session in listed} == set(IDS)
        for name in IDS[::3]:
            assert [s.id for s in (await database.sessions(user_id=name)).items] == [name]
            assert [s.id for s in (await database.sessions(agent=name)).items] == [name]
            assert await database.delete_session(name)
        for number, name in enumerate(IDS):
            assert await contents(database, name) == ([] if number % 3 == 0 else [str(number)])

    async def test_message_ids_are_exact(self, database: Database) -> None:
        stored = await database.append("s", [say(name, id=name, run_id=name) for name in IDS])
        assert [(m.id, m.run_id) for m in stored] == [(name, name) for name in IDS]
        for name in IDS:
            (known,) = await database.append("s", say("again", id=name))
            assert known.content == name
        assert await database.messages("s") == stored

    @pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS)
    async def test_bad_ids_are_refused(self, database: Database, bad: Any) -> None:
        await database.append("s", say())
        before = await database.export_session("s")
        calls = [
            database.append(bad, say()),
            database.append("t", say(), user_id=bad),
            database.append("t", say(), agent=bad),
            database.append("t", say(id=bad)),
            database.append("t", say(run_id=bad)),
            database.append("t", Message(bad, "a")),
            database.messages(bad),
            database.messages("s", user_id=bad),
            database.pop(bad),
            database.clear(bad),
            database.session(bad),
            database.sessions(user_id=bad),
            database.sessions(agent=bad),
            database.update_session(bad, title="t"),
            database.delete_session(bad),
            database.fork(bad),
            database.fork("s", bad),
            database.export_session(bad),
            database.import_session({**before, "session": {**before["session"], "id": bad}}),
            anext(database.iter_messages(bad)),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError):
                await call
        assert [session.id for session in (await database.sessions()).items] == ["s"]
        assert await database.export_session("s") == before

    async def test_none_is_no_session_id(self, database: Database) -> None:
        with pytest.raises(InvalidInputError):
            await database.append(None, say())  # type: ignore[arg-type]


class TextContract(Contract):
    """Every str and every JSON value comes back equal."""

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
    async def test_texts(self, database: Database, text: str) -> None:
        sent = [
            Message("user", text, tool_call_id=text, name=text, tool_calls=(ToolCall(text, text, text),)),
            Message("user", [text, {"text": text, text: text}], metadata={"text": text, text: [text]}),
        ]
        stored = await database.append("s", sent, metadata={text: text})
        await database.update_session("s", title=text)
        session = await database.session("s")
        assert session is not None
        assert (session.title, session.metadata) == (text, {text: text})
        for found in (stored, await database.messages("s")):
            for message, original in zip(found, sent, strict=True):
                assert_unchanged(message, original)

    @pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
    async def test_json(self, database: Database, value: Any) -> None:
        sent = Message("user", [value], metadata={"value": value})
        await database.append("s", sent, metadata={"value": value})
        (found,) = await database.messages("s")
        session = await database.session("s")
        assert session is not None
        assert_unchanged(found, sent)
        assert_same(session.metadata, {"value": value})
        replaced = await database.update_session("s", metadata={"other": value})
        assert_same(replaced.metadata, {"other": value})

    @pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON)
    async def test_what_json_cannot_carry_is_refused(self, database: Database, value: Any) -> None:
        for call in (
            database.append("s", say(metadata={"a": [value]})),
            database.append("s", say([{"a": value}])),
            database.append("s", [say(), say([value])]),
            database.append("s", say(), metadata={"a": value}),
        ):
            with pytest.raises(InvalidInputError):
                await call
        assert await database.session("s") is None

    @pytest.mark.parametrize(
        "message",
        [
            *({"role": "user"}, {"content": "a"}, {"role": "user", "content": None}, {"role": "user", "content": 5}),
            *({"role": "user", "content": "a", name: 5} for name in ("colour", "tool_calls", "metadata", "name")),
            *({"role": "user", "content": "a", "tool_calls": [5]}, {"role": "user", "content": "a", "created_at": 5}),
            *(5, None, "text"),
        ],
        ids=str,
    )
    async def test_what_is_no_message_is_refused(self, database: Database, message: Any) -> None:
        with pytest.raises(InvalidInputError):
            await database.append("s", [{"role": "user", "content": "good"}, message])
        assert await database.session("s") is None

    async def test_tool_calls_keep_their_arguments_verbatim(self, database: Database) -> None:
        arguments = ["", "{", '{"a": 1}', '{"a":1, "a":2}', "null", "\x00", "{'a': NaN}", " {} \n"]
        calls = tuple(ToolCall(f"c{number}", "f", text) for number, text in enumerate(arguments))
        await database.append("s", Message("assistant", "", tool_calls=calls))
        await database.append("s", Message("tool", "42", tool_call_id="c0", name="f"))
        asked, answered = await database.messages("s")
        assert asked.tool_calls == calls
        assert (answered.tool_call_id, answered.name) == ("c0", "f")

    @given(message=messages)
    @EXAMPLES
    async def test_any_message_comes_back(self, database: Database, message: Message) -> None:
        session_id = new_id()
        (stored,) = await database.append(session_id, message)
        (found,) = await database.messages(session_id)
        assert found == stored
        assert_unchanged(found, message)

    @given(metadata=objects, more=objects)
    @EXAMPLES
    async def test_any_metadata_comes_back(
        self, database: Database, metadata: dict[str, Any], more: dict[str, Any]
    ) -> None:
        session_id = new_id()
        await database.append(session_id, [], metadata=metadata)
        await database.append(session_id, [], metadata=more)
        session = await database.session(session_id)
        assert session is not None
        assert_same(session.metadata, {**metadata, **more})

    @pytest.mark.parametrize("text", FULL.values(), ids=FULL)
    async def test_8_mib_are_stored(self, database: Database, text: str) -> None:
        assert len(text.encode("utf-8", "surrogatepass")) == MAX_BYTES
        sent = say(text)
        await database.append("s", [say("before"), sent, say("after")])
        before, found, after = await database.messages("s")
        assert found.content == text
        assert (before.content, after.content) == ("before", "after")
        with pytest.raises(MessageTooLargeError):
            await database.append("t", say(text + "x"))
        assert await database.session("t") is None

    @pytest.mark.parametrize("where", BIG.values(), ids=BIG)
    async def test_more_than_8_mib_is_refused(self, database: Database, where: Callable[[int], Message]) -> None:
        await database.append("s", say("before"))
        for size in (MAX_BYTES + 1, 100 * 2**20):
            with pytest.raises(MessageTooLargeError):
                await database.append("s", [say("with it"), where(size)])
        assert await contents(database) == ["before"]


def assert_unchanged(found: Message, sent: Message) -> None:
    """All that the sender gave is as it was; the seq was added."""
    assert_same({**found.to_dict(), "seq": None}, sent.to_dict())
    assert found.created_at == sent.created_at
