"""Whose a session is: every call asks, and another user is turned away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentstore.errors import AccessDeniedError, ConflictError

from .common import Contract, contents, say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.database import Database


async def _iterate(database: Database, user_id: str | None) -> list[Any]:
    return [message async for message in database.iter_messages("s", user_id=user_id)]


async def _import(database: Database, user_id: str | None) -> str:
    return await database.import_session(await database.export_session("s"), user_id=user_id)


CALLS: dict[str, Callable[[Database, str | None], Awaitable[Any]]] = {
    "append": lambda database, user: database.append("s", say(), user_id=user),
    "append nothing": lambda database, user: database.append("s", [], metadata={"k": 2}, user_id=user),
    "append again": lambda database, user: database.append("s", say(id="m"), user_id=user),
    "messages": lambda database, user: database.messages("s", user_id=user),
    "iter_messages": _iterate,
    "pop": lambda database, user: database.pop("s", user_id=user),
    "pop nothing": lambda database, user: database.pop("s", 0, user_id=user),
    "clear": lambda database, user: database.clear("s", user_id=user),
    "session": lambda database, user: database.session("s", user_id=user),
    "update_session": lambda database, user: database.update_session("s", title="t", user_id=user),
    "delete_session": lambda database, user: database.delete_session("s", user_id=user),
    "fork": lambda database, user: database.fork("s", user_id=user),
    "export_session": lambda database, user: database.export_session("s", user_id=user),
    "import_session": _import,
}


class OwnershipContract(Contract):
    """``user_id``, on every call that takes it."""

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_another_user_is_turned_away(
        self, database: Database, call: Callable[[Database, str | None], Awaitable[Any]]
    ) -> None:
        await database.append("s", say(id="m"), user_id="owner", metadata={"k": 1})
        before = await database.export_session("s")
        for other in ("other", "Owner", "owner ", "OWNER", "ownér"):
            with pytest.raises(AccessDeniedError):
                await call(database, other)
        assert await database.export_session("s") == before
        assert len((await database.sessions()).items) == 1

    @pytest.mark.parametrize("user_id", ["owner", None])
    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_the_owner_and_who_gives_no_user_pass(
        self,
        database: Database,
        call: Callable[[Database, str | None], Awaitable[Any]],
        user_id: str | None,
    ) -> None:
        await database.append("s", say(id="m"), user_id="owner")
        await call(database, user_id)
        session = await database.session("s")
        assert session is None or session.user_id == "owner"

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_an_ownerless_session_is_everyone_s_and_stays_so(
        self, database: Database, call: Callable[[Database, str | None], Awaitable[Any]]
    ) -> None:
        await database.append("s", say(id="m"))
        await call(database, "anyone")
        session = await database.session("s")
        assert session is None or session.user_id is None

    async def test_a_deleted_session_s_id_is_anyone_s(self, database: Database) -> None:
        await database.append("s", say(), user_id="owner")
        await database.delete_session("s", user_id="owner")
        assert await database.messages("s", user_id="other") == []
        await database.append("s", say("mine"), user_id="other")
        with pytest.raises(AccessDeniedError):
            await database.messages("s", user_id="owner")
        assert await contents(database) == ["mine"]

    async def test_listings_show_each_their_own(self, database: Database) -> None:
        for number in range(6):
            await database.append(f"s{number}", say(), user_id=(None, "u", "v")[number % 3])
        assert {s.id for s in (await database.sessions(user_id="u")).items} == {"s1", "s4"}
        assert len((await database.sessions()).items) == 6

    async def test_a_fork_keeps_the_owner(self, database: Database) -> None:
        await database.append("s", say(), user_id="owner")
        fork = await database.fork("s")
        assert fork.user_id == "owner"
        with pytest.raises(AccessDeniedError):
            await database.messages(fork.id, user_id="other")

    async def test_a_fork_does_not_open_another_s_session(self, database: Database) -> None:
        await database.append("mine", say("mine"), user_id="me")
        await database.append("theirs", say("theirs"), user_id="them")
        with pytest.raises((ConflictError, AccessDeniedError)):
            await database.fork("mine", "theirs", user_id="me")
        assert await contents(database, "theirs") == ["theirs"]
