"""State: keys and values in scopes that never see one another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .checks import check_id, check_json, check_optional_count, check_ttl, check_value
from .errors import InvalidInputError, shown
from .protocol import DeleteKeys, Expire, GetItems, Increment, Scan, SetItems
from .records import StateItem, utcnow
from .sync import blocking

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from .layers.stack import Stack

MAX_NAMESPACE = 255


class _Owner(Protocol):
    """What a scope needs of its Database."""

    def use(self, call: str, size: int = 1) -> AbstractAsyncContextManager[Stack]: ...


class StateScope:
    """An ordered, versioned, expiring map of keys to values; reached by `Database.state`.

    Keys are any non-empty str of up to 255 characters without NUL or surrogates, compared exactly. Values are JSON
    data or ``bytes``, up to 8 MiB. Every call raises `InvalidInputError` for what cannot be stored and
    `UnavailableError` if the backend cannot be used.
    """

    def __init__(self, owner: _Owner, namespace: str = "") -> None:
        self._owner = owner
        self._namespace = namespace

    @property
    def sync(self) -> BlockingStateScope:
        """The same surface, blocking."""
        return BlockingStateScope(self)

    def __repr__(self) -> str:
        return f"StateScope({self._namespace!r})"

    def scope(self, namespace: str) -> StateScope:
        """The scope of that name within this one; scopes never see each other's keys."""
        return StateScope(self._owner, _nested(self._namespace, check_id(namespace, "namespace")))

    async def get(self, key: str, default: Any = None) -> Any:
        """The key's value, or `default` if there is none."""
        return (await self.get_many([key])).get(key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those keys that are there, read at one moment."""
        names = _keys(keys)
        if not names:
            return {}
        async with self._owner.use("get", len(names)) as stack:
            items = await stack.get(GetItems(self._namespace, names))
        return {name: items[name].value for name in names if name in items}

    async def set(
        self, key: str, value: Any, *, ttl: timedelta | float | None = None, if_version: int | None = None
    ) -> int:
        """Set a key and clear its TTL, or give it a new one.

        Args:
            key: Its name.
            value: JSON data or ``bytes``.
            ttl: Seconds or timedelta until it becomes invisible; None is never.
            if_version: The version it must have now; 0: it must not be there.

        Returns:
            The new version.

        Raises:
            ConflictError: `if_version` does not hold; nothing was changed.
        """
        if_version = check_optional_count(if_version, "if_version")
        return await self._set({check_id(key, "key"): value}, ttl, if_version)

    async def set_many(self, mapping: Mapping[str, Any], *, ttl: timedelta | float | None = None) -> None:
        """Set several keys, all or none."""
        if not isinstance(mapping, Mapping):
            raise InvalidInputError(f"set_many takes a mapping of keys to values, not {shown(mapping)}")
        if mapping:
            await self._set(mapping, ttl)

    async def _set(
        self, mapping: Mapping[str, Any], ttl: timedelta | float | None, if_version: int | None = None
    ) -> int:
        items = {check_id(key, "key"): value for key, value in mapping.items()}
        size = sum(check_value(value) for value in items.values())
        op = SetItems(self._namespace, items, check_ttl(ttl), if_version, size)
        async with self._owner.use("set", len(items)) as stack:
            return await stack.write(op)

    async def delete(self, key: str, *, if_version: int | None = None) -> bool:
        """Delete a key; whether it was there.

        Raises:
            ConflictError: Its version is not `if_version`.
        """
        op = DeleteKeys(self._namespace, _keys([key]), check_optional_count(if_version, "if_version"))
        async with self._owner.use("delete") as stack:
            return await stack.write(op) > 0

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete keys; how many were there."""
        names = _keys(keys)
        if not names:
            return 0
        async with self._owner.use("delete", len(names)) as stack:
            return await stack.write(DeleteKeys(self._namespace, names))

    async def scan(
        self, prefix: str = "", *, limit: int | None = None, after: str | None = None, reverse: bool = False
    ) -> list[StateItem]:
        """Items whose key starts with `prefix`, in key order (codepoints).

        Args:
            prefix: What the keys start with; all keys by default.
            limit: How many at most.
            after: Only what comes after this key, in the direction of the scan.
            reverse: From the last key to the first.
        """
        if prefix != "":
            check_id(prefix, "prefix")
        if after is not None:
            check_id(after, "after")
        if not isinstance(reverse, bool):
            raise InvalidInputError(f"reverse must be a bool, not {shown(reverse)}")
        scan = Scan(self._namespace, prefix, check_optional_count(limit, "limit"), after, reverse)
        async with self._owner.use("scan") as stack:
            return await stack.state.scan(scan)

    async def increment(self, key: str, by: int = 1) -> int:
        """Add to an int that starts at 0, and keep its TTL; the sum.

        Raises:
            InvalidInputError: The key holds something else, or `by` is no int.
        """
        if not isinstance(by, int) or isinstance(by, bool):
            raise InvalidInputError(f"by must be an int, not {shown(by)}")
        check_json(by, "by")
        op = Increment(self._namespace, check_id(key, "key"), by)
        async with self._owner.use("increment") as stack:
            return await stack.write(op)

    async def ttl(self, key: str) -> float | None:
        """Seconds until the key becomes invisible; None if it has no TTL, or is not there."""
        async with self._owner.use("get") as stack:
            items = await stack.get(GetItems(self._namespace, _keys([key])))
        expires_at = items[key].expires_at if key in items else None
        return None if expires_at is None else max(0.0, (expires_at - utcnow()).total_seconds())

    async def expire(self, key: str, ttl: timedelta | float | None) -> bool:
        """Give a key a TTL (seconds or timedelta; None takes it away); whether the key was there."""
        op = Expire(self._namespace, check_id(key, "key"), check_ttl(ttl))
        async with self._owner.use("expire") as stack:
            return await stack.write(op) > 0


class BlockingStateScope:
    """The same surface, blocking: `Database.sync.state`, or `StateScope.sync`."""

    def __init__(self, target: StateScope) -> None:
        self._target = target

    def scope(self, namespace: str) -> BlockingStateScope:
        """The scope of that name within this one."""
        return self._target.scope(namespace).sync

    get = blocking(StateScope.get)
    get_many = blocking(StateScope.get_many)
    set = blocking(StateScope.set)
    set_many = blocking(StateScope.set_many)
    delete = blocking(StateScope.delete)
    delete_many = blocking(StateScope.delete_many)
    scan = blocking(StateScope.scan)
    increment = blocking(StateScope.increment)
    ttl = blocking(StateScope.ttl)
    expire = blocking(StateScope.expire)


def _keys(keys: Iterable[str]) -> tuple[str, ...]:
    if isinstance(keys, str):
        raise InvalidInputError(f"several keys were expected, not the one str {keys!r}", hint="Put it into a list")
    if not isinstance(keys, Iterable):
        raise InvalidInputError(f"keys must be several keys, not {shown(keys)}")
    return tuple(dict.fromkeys(check_id(key, "key") for key in keys))


def _nested(parent: str, name: str) -> str:
    """The namespace of `name` within `parent`: a path of escaped names, or the path's hash where it gets too long.

    Both are unambiguous: ``/`` only separates, and a ``%`` is otherwise followed by 25 or 2F.
    """
    path = name.replace("%", "%25").replace("/", "%2F")
    path = f"{parent}/{path}" if parent else path
    if len(path) <= MAX_NAMESPACE:
        return path
    return "%sha256:" + hashlib.sha256(path.encode()).hexdigest()
