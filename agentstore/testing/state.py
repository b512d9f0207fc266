"""What values of the state promise: versions, any value, counting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given

from agentstore.checks import MAX_BYTES
from agentstore.errors import ConflictError, InvalidInputError, MessageTooLargeError
from agentstore.records import new_id

from .common import Contract, assert_same, keys
from .texts import EXAMPLES, NO_JSON, TEXTS, VALUES, values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.database import Database


class StateContract(Contract):
    """`Database.state` and its scopes."""

    async def test_get_and_set(self, database: Database) -> None:
        state = database.state
        assert await state.get("k") is None
        assert await state.get("k", "default") == "default"
        first = await state.set("k", {"a": 1})
        assert await state.get("k", "default") == {"a": 1}
        second = await state.set("k", None)
        assert await state.get("k", "default") is None, "None is a value"
        assert 0 < first < second
        (item,) = await state.scan()
        assert (item.key, item.value, item.version, item.expires_at) == ("k", None, second, None)

    async def test_many_keys(self, database: Database) -> None:
        state = database.state
        await state.set_many({"a": 1, "b": [2], "c": b"3"})
        assert await state.get_many(["c", "a", "missing"]) == {"a": 1, "c": b"3"}
        assert await state.get_many([]) == {}
        await state.set_many({})
        assert await state.delete_many(["a", "missing", "b", "a"]) == 2
        assert await state.delete_many([]) == 0
        assert await keys(state) == ["c"]
        assert await state.delete("c") is True
        assert await state.delete("c") is False
        assert await state.scan() == []

    async def test_versions_are_checked(self, database: Database) -> None:
        state = database.state
        version = await state.set("k", 1, if_version=0)
        for wrong in (0, version + 1, version + 2):
            with pytest.raises(ConflictError):
                await state.set("k", 2, if_version=wrong)
            with pytest.raises(ConflictError):
                await state.delete("k", if_version=wrong)
        assert await state.get("k") == 1
        newer = await state.set("k", 2, if_version=version)
        assert newer > version
        assert await state.delete("k", if_version=newer) is True
        with pytest.raises(ConflictError):
            await state.set("k", 3, if_version=newer)
        no_versions: list[Any] = [-1, 1.0, "1", True]
        for no_version in no_versions:
            with pytest.raises(InvalidInputError):
                await state.set("k", 3, if_version=no_version)
        assert await state.get("k") is None

    async def test_versions_never_repeat(self, database: Database) -> None:
        state = database.state
        removals: list[Callable[[], Awaitable[object]]] = [
            lambda: state.delete("k"),
            lambda: state.delete_many(["k", "l"]),
        ]
        for removed_by in removals:
            versions = []
            for _ in range(3):
                versions += [await state.set("k", 1), await state.set("k", 1)]
                await state.increment("k")
                (item,) = await state.scan("k")
                versions.append(item.version)
                await state.set("l", 1)
                await removed_by()
            assert versions == sorted(set(versions))

    async def test_every_change_makes_a_new_version(self, database: Database) -> None:
        state = database.state
        versions = [await state.set("k", 1)]
        for change in (
            lambda: state.set("k", 1),
            lambda: state.set_many({"k": 1}),
            lambda: state.increment("k"),
            lambda: state.expire("k", 1000),
        ):
            await change()
            (item,) = await state.scan()
            versions.append(item.version)
        assert versions == sorted(set(versions))

    async def test_increment(self, database: Database) -> None:
        state = database.state
        assert await state.increment("k") == 1
        assert await state.increment("k", 5) == 6
        assert await state.increment("k", by=-7) == -1
        assert await state.increment("k", 0) == -1
        await state.set("big", 2**63 - 1)
        assert await state.increment("big") == 2**63
        assert await state.increment("big", 2**80) == 2**63 + 2**80
        assert await state.get("big") == 2**63 + 2**80
        no_ints: list[Any] = ["1", 1.0, True, None, [1], {}, b"1"]
        for value in no_ints:
            await state.set("other", value)
            with pytest.raises(InvalidInputError):
                await state.increment("other")
            assert_same(await state.get("other"), value)
        for by in no_ints:
            with pytest.raises(InvalidInputError):
                await state.increment("k", by)
        assert await state.get("k") == -1

    # --- values ---

    @pytest.mark.parametrize("value", [*VALUES.values(), *TEXTS.values()], ids=[*VALUES, *TEXTS])
    async def test_json_values(self, database: Database, value: Any) -> None:
        await database.state.set("k", value)
        await database.state.set_many({"l": [value], "m": {"v": value}})
        assert_same(await database.state.get("k"), value)
        assert [item.value for item in await database.state.scan()] == [value, [value], {"v": value}]

    @pytest.mark.parametrize(
        "value", [b"", b"\x00", b"b:aGk=", bytes(range(256)), "ü\ud83d".encode("utf-8", "surrogatepass")]
    )
    async def test_bytes(self, database: Database, value: bytes) -> None:
        await database.state.set_many({"k": value, "text": value.decode("latin-1")})
        for key, expected in (("k", value), ("text", value.decode("latin-1"))):
            assert_same(await database.state.get(key), expected)

    @pytest.mark.parametrize("value", [*NO_JSON.values(), bytearray(b"a")], ids=[*NO_JSON, "bytearray"])
    async def test_values_that_json_cannot_carry_are_refused(self, database: Database, value: Any) -> None:
        for call in (
            database.state.set("k", value),
            database.state.set("k", {"a": [value]}),
            database.state.set_many({"good": 1, "bad": value}),
        ):
            with pytest.raises(InvalidInputError):
                await call
        assert await database.state.scan() == []

    @given(value=values)
    @EXAMPLES
    async def test_any_value_comes_back(self, database: Database, value: Any) -> None:
        key = new_id()
        await database.state.set(key, value)
        assert_same(await database.state.get(key), value)

    async def test_values_of_8_mib_are_stored(self, database: Database) -> None:
        state = database.state
        await state.set("text", "x" * MAX_BYTES)
        await state.set("bytes", b"\xff" * MAX_BYTES)
        assert await state.get("text") == "x" * MAX_BYTES
        assert await state.get("bytes") == b"\xff" * MAX_BYTES
        for value in ("x" * (MAX_BYTES + 1), b"x" * (MAX_BYTES + 1), ["x" * MAX_BYTES]):
            with pytest.raises(MessageTooLargeError):
                await state.set("more", value)
            with pytest.raises(MessageTooLargeError):
                await state.set_many({"good": 1, "more": value})
        assert await keys(state) == ["bytes", "text"]

    async def test_values_are_copies(self, database: Database) -> None:
        state, value = database.state, {"a": ["as set"]}
        await state.set("k", value)
        value["a"][0] = "changed"
        for found in (await state.get("k"), (await state.get_many(["k"]))["k"], (await state.scan())[0].value):
            assert found == {"a": ["as set"]}
            found["a"][0] = "changed"
        assert await state.get("k") == {"a": ["as set"]}
