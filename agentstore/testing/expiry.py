"""What expiry promises: invisible at once and everywhere, and a new start afterwards."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentstore.database import db
from agentstore.errors import ConflictError, InvalidInputError

from .common import TTL, Contract, contents, eventually, gone, say, seqs

if TYPE_CHECKING:
    from agentstore.database import Database
    from agentstore.records import Session

LONG = 1000.0


class ExpiryContract(Contract):
    """The time to live of sessions and keys."""

    async def _session(self, database: Database) -> Session:
        session = await database.session("s")
        assert session is not None
        return session

    async def test_a_session_s_ttl_slides(self, database: Database) -> None:
        await database.append("s", say(), ttl=timedelta(seconds=LONG))
        heads = [await self._session(database)]
        for change in (
            lambda: database.append("s", say()),
            lambda: database.append("s", []),
            lambda: database.update_session("s", title="t"),
            lambda: database.pop("s"),
            lambda: database.clear("s"),
        ):
            await change()
            heads.append(await self._session(database))
        for head in heads:
            assert head.expires_at == head.updated_at + timedelta(seconds=LONG)
        assert [head.updated_at for head in heads] == sorted({head.updated_at for head in heads})

    async def test_a_new_ttl_counts_from_now(self, database: Database) -> None:
        await database.append("s", say())
        assert (await self._session(database)).expires_at is None
        await database.append("s", [], ttl=LONG)
        head = await self._session(database)
        assert head.expires_at == head.updated_at + timedelta(seconds=LONG)
        await database.append("s", say(), ttl=0.5)
        head = await self._session(database)
        assert head.expires_at == head.updated_at + timedelta(seconds=0.5)

    async def test_the_database_s_ttl_is_that_of_new_sessions(self, database_url: str, options: dict[str, Any]) -> None:
        async with db(database_url, **{**options, "session_ttl": LONG}) as database:
            await database.append("s", say())
            await database.append("own", say(), ttl=5)
            head, own = await self._session(database), await database.session("own")
            assert head.expires_at == head.updated_at + timedelta(seconds=LONG)
            assert own is not None
            assert own.expires_at == own.updated_at + timedelta(seconds=5)
            await database.update_session("s", ttl=None)
            await database.append("s", say())
            assert (await self._session(database)).expires_at is None

    async def test_an_expired_session_is_invisible_everywhere(self, database: Database) -> None:
        await database.append("s", say(), user_id="u", agent="a", ttl=TTL)
        await database.append("other", say(), user_id="u", agent="a")
        await gone(database)
        assert await database.messages("s") == []
        assert await database.messages("s", user_id="somebody else") == []
        assert [message async for message in database.iter_messages("s")] == []
        assert await database.pop("s") == []
        assert await database.clear("s") == 0
        assert await database.delete_session("s") is False
        for user_id, agent in ((None, None), ("u", None), (None, "a")):
            listed = await database.sessions(user_id=user_id, agent=agent)
            assert [session.id for session in listed.items] == ["other"]
        with pytest.raises(ConflictError):
            await database.append("s", say(), expected_seq=1)
        assert await database.session("s") is None

    async def test_appending_to_an_expired_session_starts_a_new_one(self, database: Database) -> None:
        old = await database.append(
            "s", [say("old", id="m"), say("older")], user_id="u", agent="a", metadata={"k": 1}, ttl=TTL
        )
        await database.update_session("s", title="t")
        before = await self._session(database)
        await gone(database)
        new = await database.append("s", say("new", id="m"), user_id="v", metadata={"l": 2}, expected_seq=0)
        head = await self._session(database)
        assert seqs(new) > seqs(old[-1:]), "seqs go on"
        assert await database.messages("s") == new, "the id is free again"
        assert (head.user_id, head.agent, head.title, head.metadata) == ("v", None, None, {"l": 2})
        assert (head.message_count, head.expires_at) == (1, None)
        assert head.created_at > before.created_at
        assert (head.created_at, head.last_seq) == (head.updated_at, new[0].seq)

    async def test_purge_removes_what_has_expired(self, database: Database) -> None:
        old = await database.append("s", [say("old", id="m"), say()], ttl=TTL)
        await database.append("t", say(), ttl=TTL)
        await database.append("stays", say("stays"), ttl=LONG)
        await database.state.set("k", 1, ttl=TTL)
        await database.state.scope("n").set("k", 1, ttl=TTL)
        await database.state.set("stays", 1)

        async def expired() -> bool:
            found = [await database.session("s"), await database.session("t")]
            return found == [None, None] and not any([await database.state.get("k"), await n.get("k")])

        n = database.state.scope("n")
        await eventually(expired)
        assert await database.purge_expired() in {0, 4}, "0 where the backend removes by itself"
        assert await database.purge_expired() == 0
        assert await contents(database, "stays") == ["stays"]
        assert await database.state.get("stays") == 1
        new = await database.append("s", say("new", id="m"))
        assert seqs(new) > seqs(old[-1:])
        assert await database.messages("s") == new

    async def test_an_expired_session_gives_way_to_an_import(self, database: Database) -> None:
        await database.append("s", say("kept"), ttl=LONG)
        export = await database.export_session("s")
        await database.update_session("s", ttl=TTL)
        await gone(database)
        await database.import_session(export)
        assert await contents(database) == ["kept"]
        assert await database.export_session("s") == export

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), timedelta(0), "1", True, 10**12], ids=repr)
    async def test_what_is_no_ttl(self, database: Database, ttl: Any) -> None:
        await database.state.set("k", 1)
        for call in (
            database.append("s", say(), ttl=ttl),
            database.state.set("k", 2, ttl=ttl),
            database.state.set_many({"k": 2}, ttl=ttl),
            database.state.expire("k", ttl),
        ):
            with pytest.raises(InvalidInputError):
                await call
        assert await database.session("s") is None
        assert await database.state.get("k") == 1
        assert await database.state.ttl("k") is None

    # --- keys ---

    async def test_an_expired_key_is_invisible_everywhere(self, database: Database) -> None:
        state = database.state
        version = await state.set("k", 41, ttl=TTL)
        await state.set("l", 1)

        async def expired() -> bool:
            return await state.get("k") is None

        await eventually(expired)
        assert await state.get("k", "default") == "default"
        assert await state.get_many(["k", "l"]) == {"l": 1}
        assert [item.key for item in await state.scan()] == ["l"]
        assert await state.ttl("k") is None
        assert await state.expire("k", LONG) is False
        assert await state.delete("k") is False
        with pytest.raises(ConflictError):
            await state.set("k", 1, if_version=version)
        assert await state.set("k", 1, if_version=0) > version, "versions go on"

    async def test_an_increment_of_an_expired_key_starts_anew(self, database: Database) -> None:
        await database.state.set("k", 41, ttl=TTL)

        async def expired() -> bool:
            return await database.state.get("k") is None

        await eventually(expired)
        assert await database.state.increment("k") == 1
        assert await database.state.ttl("k") is None

    async def test_a_key_s_ttl(self, database: Database) -> None:
        state = database.state
        assert await state.ttl("k") is None
        await state.set("k", 1, ttl=timedelta(seconds=LONG))
        assert LONG - 500 < (await state.ttl("k") or 0) <= LONG
        await state.increment("k")
        assert LONG - 500 < (await state.ttl("k") or 0) <= LONG, "increment keeps it"
        (item,) = await state.scan()
        assert item.expires_at is not None
        await state.set("k", 2)
        assert await state.ttl("k") is None, "a plain set clears it"
        assert await state.expire("k", 2 * LONG) is True
        assert LONG < (await state.ttl("k") or 0) <= 2 * LONG
        assert await state.get("k") == 2
        assert await state.expire("k", None) is True
        assert await state.ttl("k") is None
        assert await state.expire("missing", LONG) is False
        await state.set_many({"k": 3, "l": 4}, ttl=LONG)
        assert (await state.ttl("k") or 0) > LONG - 500 < (await state.ttl("l") or 0)
        await state.delete("k")
        await state.set("k", 5)
        assert await state.ttl("k") is None
