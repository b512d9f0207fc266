"""What keys and scopes promise: exact names, codepoint order, walls between scopes, and races with one winner."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from agentstore.errors import ConflictError, InvalidInputError

from .common import Contract, guarantee, keys
from .texts import BAD_IDS, IDS

if TYPE_CHECKING:
    from agentstore.database import Database
    from agentstore.state import StateScope

TASKS = 64

# UTF-16 puts U+10000 and above before U+E000, a language's collation puts "a" before "B", and é with e.
_TAILS = ("", "!", " ", "/b", "b", "é", "\ud7ff", "\ue000", "\U0010ffff", "\U0010ffff" * 2)
_CHARACTERS = (*"\x01\t !%*-/09ABZ_bz~\x7féß\u07ff\u0800\ufeff😀", "e\u0301", "10", "2")
ORDERED = sorted(
    [first + tail for first in ("a", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff") for tail in _TAILS[:9]]
    + [*_CHARACTERS, "a" + _TAILS[9], "\U0010ffff" * 3]
)
PREFIXES = [*("", "a", "a/", "%", "_", "*", "é", "e", "😀", "none"), *(first for first in ORDERED if first > "\ud000")]


class ScopeContract(Contract):
    """Keys in their scopes."""

    async def test_keys_are_exact(self, database: Database) -> None:
        state = database.state
        await state.set_many({name: number for number, name in enumerate(IDS)})
        for number, name in enumerate(IDS):
            assert await state.get(name) == number
        assert await keys(state) == sorted(IDS)
        assert await state.delete_many(IDS[::2]) == len(IDS[::2])
        assert await state.get_many(IDS) == {name: number for number, name in enumerate(IDS) if number % 2}

    @pytest.mark.parametrize("bad", BAD_IDS.values(), ids=BAD_IDS)
    async def test_bad_keys_are_refused(self, database: Database, bad: Any) -> None:
        state = database.state
        await state.set("k", 1)
        calls = [state.get(bad), state.get_many(["k", bad]), state.set(bad, 1), state.set_many({"good": 1, bad: 1})]
        calls += [state.delete(bad), state.delete_many(["k", bad]), state.increment(bad), state.ttl(bad)]
        calls += [state.expire(bad, 1), state.scan(after=bad), *([state.scan(bad)] if bad else [])]
        for call in calls:
            with pytest.raises(InvalidInputError):
                await call
        with pytest.raises(InvalidInputError):
            state.scope(bad)
        assert await state.get_many(["k", "good"]) == {"k": 1}

    async def test_scans_are_in_codepoint_order(self, database: Database) -> None:
        state = database.state
        await state.set_many({key: number for number, key in enumerate(random.Random(1).sample(ORDERED, len(ORDERED)))})  # noqa: S311
        for prefix in PREFIXES:
            matching = [key for key in ORDERED if key.startswith(prefix)]
            assert await keys(state, prefix) == matching
            assert await keys(state, prefix, reverse=True) == matching[::-1]
            for limit in (0, 1, len(matching), 10**30):
                assert await keys(state, prefix, limit=limit) == matching[:limit]
                assert await keys(state, prefix, limit=limit, reverse=True) == matching[::-1][:limit]
            for after in (ORDERED[0], "a", "a/b", "\ud7ff", "\uffff", "😀", ORDERED[-1]):
                above = [key for key in matching if key > after]
                below = [key for key in matching[::-1] if key < after]
                assert await keys(state, prefix, after=after) == above
                assert await keys(state, prefix, after=after, limit=2) == above[:2]
                assert await keys(state, prefix, after=after, reverse=True) == below
                assert await keys(state, prefix, after=after, limit=2, reverse=True) == below[:2]
        no_limits: list[Any] = [-1, 1.5, "1"]
        for no_limit in no_limits:
            with pytest.raises(InvalidInputError):
                await state.scan(limit=no_limit)

    async def test_scopes_never_see_each_other(self, database: Database) -> None:
        names = [*IDS[:8], "b", "a%2Fb", "%", "%25", "/", "//", "..", "é", "e\u0301", "😀", "x" * 255, "x" * 254 + "y"]
        root = database.state
        scopes: dict[tuple[str, ...], StateScope] = {(name,): root.scope(name) for name in names}
        scopes |= {(outer, inner): root.scope(outer).scope(inner) for outer in names for inner in names}
        scopes |= {("a", "b", "c"): root.scope("a").scope("b").scope("c"), (): root}
        for path, scope in scopes.items():
            await scope.set("k", list(path))
        for path, scope in scopes.items():
            assert [(item.key, item.value) for item in await scope.scan()] == [("k", list(path))]
        assert await root.scope("a").delete("k") is True
        assert await root.delete("k") is True
        assert await root.scope("a").scope("b").get("k") == ["a", "b"]
        assert await root.scope("a/b").get("k") == ["a/b"]

    # --- races ---

    @guarantee("if_version")
    async def test_of_racing_creators_one_wins(self, database: Database) -> None:
        outcomes = await asyncio.gather(
            *(database.state.set("k", number, if_version=0) for number in range(TASKS)), return_exceptions=True
        )
        won = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert len(won) == 1
        assert sum(isinstance(outcome, ConflictError) for outcome in outcomes) == TASKS - 1
        assert await database.state.get("k") == won[0]

    @guarantee("if_version")
    async def test_racing_updates_lose_nothing(self, database: Database) -> None:
        scope = database.state.scope("race")
        await asyncio.gather(*(add_one(scope, "k") for _ in range(TASKS)))
        assert await scope.get("k") == TASKS

    @guarantee("increment")
    async def test_racing_increments_lose_nothing(self, database: Database) -> None:
        sums = await asyncio.gather(*(database.state.increment("k") for _ in range(TASKS)))
        assert sorted(sums) == list(range(1, TASKS + 1))

    @guarantee("set_many")
    async def test_set_many_is_seen_whole(self, database: Database) -> None:
        state, names = database.state, ["a", "b", "c"]
        await state.set_many(dict.fromkeys(names, -1))

        async def write(number: int) -> None:
            await state.set_many(dict.fromkeys(names, number))

        async def read() -> None:
            while not written.done():
                found = await state.get_many(names)
                assert len(set(found.values())) == 1, found
                assert len({item.value for item in await state.scan()}) == 1

        written = asyncio.gather(*map(write, range(TASKS)))
        await asyncio.gather(written, *(read() for _ in range(4)))


async def add_one(scope: StateScope, key: str) -> int:
    """Add one with a compare-and-set loop; how often it was beaten to it."""
    beaten = 0
    while True:
        found = await scope.scan(key, limit=1)
        value, version = (found[0].value, found[0].version) if found else (0, 0)
        try:
            await scope.set(key, value + 1, if_version=version)
        except ConflictError:
            beaten += 1
            await asyncio.sleep(random.random() * beaten / 1000)  # noqa: S311  to draw apart
        else:
            return beaten
