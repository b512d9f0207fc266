"""What sessions promise: listings, changes, deletion, forks, exports."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from agentstore.errors import ConflictError, InvalidInputError, SessionNotFoundError
from agentstore.rules import listing_key, make_cursor

from .common import TTL, Contract, contents, gone, guarantee, say, seqs
from .texts import IDS

if TYPE_CHECKING:
    from agentstore.database import Database
    from agentstore.records import Session


async def listed(database: Database, *, limit: int, **filters: Any) -> list[Session]:
    """All pages of a listing."""
    found: list[Session] = []
    cursor = None
    while True:
        page = await database.sessions(limit=limit, cursor=cursor, **filters)
        assert len(page.items) == limit or page.next_cursor is None, "only the last page is short"
        found += page.items
        if page.next_cursor is None:
            return found
        assert page.items, "a page that is not the last holds something"
        cursor = page.next_cursor


class SessionContract(Contract):
    """`sessions`, `update_session`, `delete_session`, `fork`, `export_session`, `import_session`."""

    @guarantee("listing")
    async def test_listing_is_newest_first(self, database: Database) -> None:
        order = random.Random(1).sample(range(20), 20)  # noqa: S311  nothing secret
        for number in (*range(20), *order):
            await database.append(f"s{number}", say(), user_id=f"u{number % 3}", agent=f"a{number % 2}")
        sessions = (await database.sessions(limit=50)).items
        assert [session.id for session in sessions] == [f"s{number}" for number in reversed(order)]
        assert sorted(sessions, key=listing_key, reverse=True) == list(sessions)
        for session in sessions:
            assert session == await database.session(session.id)
        for limit in (1, 3, 19, 20, 21):
            assert await listed(database, limit=limit) == list(sessions)
            ours = [s for s in sessions if s.user_id == "u1"]
            assert await listed(database, limit=limit, user_id="u1") == ours
            assert await listed(database, limit=limit, agent="a0") == [s for s in sessions if s.agent == "a0"]
            both = [s for s in ours if s.agent == "a1"]
            assert await listed(database, limit=limit, user_id="u1", agent="a1") == both
        assert await listed(database, limit=3, user_id="nobody") == []

    @guarantee("listing")
    async def test_sessions_of_one_moment_are_listed_by_id(self, database: Database) -> None:
        await database.append("a", say())
        export = await database.export_session("a")
        for name in IDS:
            export["session"]["id"] = name
            if name != "a":
                await database.import_session(export)
        sessions = await listed(database, limit=7)
        assert [session.id for session in sessions] == sorted(IDS, reverse=True)

    @pytest.mark.parametrize(
        "cursor",
        ["", "x", "nonsense!", "é", "bnVsbA", "W10", "WzEsMl0", "WyJhIiwiYiJd", make_cursor(10**30, "a"), 5, b"x"],
        ids=repr,
    )
    async def test_a_cursor_that_no_listing_gave(self, database: Database, cursor: Any) -> None:
        await database.append("s", say())
        with pytest.raises(InvalidInputError):
            await database.sessions(cursor=cursor)

    @pytest.mark.parametrize("limit", [-1, 1.5, "1", None])
    async def test_a_limit_of_the_wrong_kind(self, database: Database, limit: Any) -> None:
        with pytest.raises(InvalidInputError):
            await database.sessions(limit=limit)

    # --- changes ---

    async def test_update_changes_what_is_given(self, database: Database) -> None:
        await database.append("s", say(), user_id="u", agent="a", metadata={"k": 1, "l": 2}, ttl=1000)
        start = await database.session("s")
        assert start is not None
        titled = await database.update_session("s", title="Über \x00 \ud83d")
        assert (titled.title, titled.metadata) == ("Über \x00 \ud83d", {"k": 1, "l": 2})
        replaced = await database.update_session("s", metadata={"m": 3})
        assert (replaced.title, replaced.metadata) == (titled.title, {"m": 3}), "replaced, not merged"
        for session in (titled, replaced):
            assert session.expires_at is not None
            assert (session.expires_at - session.updated_at).total_seconds() == 1000, "the expiry slides"
        endless = await database.update_session("s", ttl=None)
        assert (endless.title, endless.metadata, endless.expires_at) == (titled.title, {"m": 3}, None)
        empty = await database.update_session("s", title=None, metadata={})
        assert (empty.title, empty.metadata) == (None, {})
        short = await database.update_session("s", ttl=50)
        assert short.expires_at is not None
        assert (short.expires_at - short.updated_at).total_seconds() == 50
        assert short == await database.session("s")
        fixed = [(s.id, s.user_id, s.agent, s.created_at, s.message_count, s.last_seq) for s in (start, short)]
        assert fixed[0] == fixed[1]
        assert start.updated_at <= titled.updated_at <= replaced.updated_at <= short.updated_at
        assert await contents(database) == ["hello"]

    @pytest.mark.parametrize(
        "changes",
        [{"title": 5}, {"metadata": {"a": {1}}}, {"metadata": []}, {"ttl": 0}, {"ttl": -1}, {"ttl": float("nan")}],
        ids=str,
    )
    async def test_a_bad_update_changes_nothing(self, database: Database, changes: dict[str, Any]) -> None:
        await database.append("s", say())
        before = await database.session("s")
        with pytest.raises(InvalidInputError):
            await database.update_session("s", **changes)
        assert await database.session("s") == before

    async def test_updates_at_once_all_take_effect(self, database: Database) -> None:
        await database.append("s", say())
        await asyncio.gather(
            *(database.append("s", say(), metadata={f"k{number}": number}) for number in range(20)),
            database.update_session("s", title="t"),
            database.update_session("s", ttl=1000),
        )
        session = await database.session("s")
        assert session is not None
        assert session.metadata == {f"k{number}": number for number in range(20)}
        assert (session.title, session.message_count) == ("t", 21)
        assert session.expires_at is not None

    async def test_delete_takes_one_session(self, database: Database) -> None:
        await database.append("s", say("one"), user_id="u", agent="a", metadata={"k": 1}, ttl=1000)
        await database.append("t", say("two"))
        assert await database.delete_session("s") is True
        assert await database.delete_session("s") is False
        assert await database.session("s") is None
        assert await database.messages("s") == []
        assert [session.id for session in (await database.sessions()).items] == ["t"]
        await database.append("s", say("three"))
        session = await database.session("s")
        assert session is not None
        assert (session.user_id, session.agent, session.metadata, session.expires_at) == (None, None, {}, None)
        assert session.message_count == 1
        assert (await contents(database, "s"), await contents(database, "t")) == (["three"], ["two"])

    # --- forks ---

    async def test_a_fork_is_a_copy_that_goes_its_own_way(self, database: Database) -> None:
        await database.append("s", [say("one"), say("gone")], user_id="u", agent="a", metadata={"k": 1})
        await database.pop("s")
        await database.append("s", [say("two"), say("three", metadata={"x": 1})])
        stored = await database.messages("s")
        fork = await database.fork("s", "f")
        assert (fork.id, fork.user_id, fork.agent, fork.metadata) == ("f", "u", "a", {"k": 1})
        assert (fork.parent_id, fork.message_count, fork.last_seq) == ("s", 3, stored[-1].seq)
        assert await database.messages("f") == stored
        assert await database.session("f") == fork
        (known,) = await database.append("f", say("again", id=stored[0].id))
        assert known == stored[0], "ids are kept"
        (more,) = await database.append("f", say("more"))
        assert seqs([more]) > seqs(stored[-1:])
        await database.pop("s", 2)
        assert await contents(database, "s") == ["one"]
        assert await contents(database, "f") == ["one", "two", "three", "more"]

    async def test_a_fork_upto_a_seq(self, database: Database) -> None:
        stored = await database.append("s", [say(str(number)) for number in range(5)])
        for upto in (0, *seqs(stored), seqs(stored)[-1] + 5):
            fork = await database.fork("s", upto=upto)
            assert fork.id != "s"
            assert await database.messages(fork.id) == [m for m in stored if seqs([m])[0] <= upto]
        assert len((await database.sessions()).items) == 8
        with pytest.raises(InvalidInputError):
            await database.fork("s", upto=-1)

    async def test_a_fork_onto_what_is_there(self, database: Database) -> None:
        await database.append("s", say("one"))
        await database.append("t", say("two"))
        for target in ("t", "s"):
            with pytest.raises(ConflictError):
                await database.fork("s", target)
        assert (await contents(database, "s"), await contents(database, "t")) == (["one"], ["two"])

    async def test_a_fork_onto_what_was_there(self, database: Database) -> None:
        old = await database.append("t", [say(str(number)) for number in range(5)], ttl=TTL)
        await database.append("s", say("one"))
        await gone(database, "t")
        await database.fork("s", "t")
        assert await contents(database, "t") == ["one"]
        (more,) = await database.append("t", say("more"))
        assert seqs([more]) > seqs(old[-1:]), "seqs of that id are never used again"

    # --- exports ---

    async def _export(self, database: Database) -> dict[str, Any]:
        message = say([{"a": "\x00\ud83d", "b": 2**70}], metadata={"$k": -0.0}, name="\ude00", run_id="r")
        call = {"role": "assistant", "content": "", "tool_calls": [{"id": "", "name": "f", "arguments": "{no json"}]}
        await database.append("s", [message, call, say("gone")], user_id="u", agent="a", metadata={"k": [1]}, ttl=1000)
        await database.pop("s")
        await database.append("s", say("last"))
        await database.update_session("s", title="t")
        export: dict[str, Any] = json.loads(json.dumps(await database.export_session("s")))
        return export

    async def test_an_export_survives_json(self, database: Database) -> None:
        export = await self._export(database)
        assert export == await database.export_session("s")
        assert await database.import_session(export) == "s"
        assert await database.export_session("s") == export

    async def test_an_import_restores_the_export(self, database: Database) -> None:
        export = await self._export(database)
        session, messages = await database.session("s"), await database.messages("s")
        await database.delete_session("s")
        assert await database.import_session(export) == "s"
        assert await database.session("s") == session
        assert await database.messages("s") == messages
        assert await database.export_session("s") == export
        assert await database.import_session(export) == "s"
        assert await database.append("s", messages) == messages, "ids are keys again"
        (more,) = await database.append("s", say("more"))
        assert session is not None
        assert seqs([more])[0] > session.last_seq

    async def test_an_import_into_an_empty_store(self, database: Database) -> None:
        export = await self._export(database)
        export["session"]["id"] = "copy"
        assert await database.import_session(export) == "copy"
        assert await database.export_session("copy") == export
        assert await database.messages("copy") == await database.messages("s")

    @pytest.mark.parametrize("change", ["append", "pop", "clear", "update", "recreate"])
    async def test_an_import_onto_other_content(self, database: Database, change: str) -> None:
        export = await self._export(database)
        if change == "append":
            await database.append("s", say())
        elif change == "update":
            await database.update_session("s", title="another")
        elif change == "recreate":
            await database.delete_session("s")
            await database.append("s", [], user_id="u")
        else:
            await getattr(database, change)("s")
        before = await database.export_session("s")
        with pytest.raises(ConflictError):
            await database.import_session(export)
        assert await database.export_session("s") == before

    async def test_imports_at_once(self, database: Database) -> None:
        export = await self._export(database)
        await database.delete_session("s")
        assert set(await asyncio.gather(*(database.import_session(export) for _ in range(10)))) == {"s"}
        assert await database.export_session("s") == export

    async def test_an_export_while_another_appends_can_be_imported(self, database: Database) -> None:
        async def write() -> None:
            for _ in range(40):
                await database.append("s", [say(), say()])

        await database.append("s", say())
        writer = asyncio.create_task(write())
        exports = [await database.export_session("s")]
        while not writer.done():
            exports.append(await database.export_session("s"))
        for number, export in enumerate(exports):
            export["session"]["id"] = f"copy {number}"
            await database.import_session(export)

    @pytest.mark.parametrize(
        "data", [None, {}, [], "{}", {"format": "other"}, {"session": {}, "messages": []}], ids=repr
    )
    async def test_what_is_no_export(self, database: Database, data: Any) -> None:
        with pytest.raises(InvalidInputError):
            await database.import_session(data)
        assert (await database.sessions()).items == ()

    async def test_what_needs_a_session(self, database: Database) -> None:
        await database.append("s", say(), ttl=TTL)
        await gone(database)
        for call in (database.fork("s"), database.export_session("s"), database.update_session("s", title="t")):
            with pytest.raises(SessionNotFoundError):
                await call
