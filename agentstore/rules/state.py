"""State: versions, conditions, sums."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentstore.checks import check_value
from agentstore.errors import ConflictError, InvalidInputError
from agentstore.protocol import DeleteKeys, Expire, Increment, Keep, SetItems, StateOp
from agentstore.records import StateItem

from .marks import Marks, advanced, passed
from .outcomes import each
from .sessions import Numbering, counted, is_live

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentstore.protocol import Outcome


@dataclass(slots=True)
class StatePlan:
    """What a batch of state operations comes to.

    Attributes:
        items: By (namespace, key), what the batch names: filled by the driver with what is there, expired items
            included, and None for what is not.
        floors: By namespace, the highest version that a removed key had: filled by the driver likewise. New keys
            begin above it, so no version of a key comes twice.
        changed: The (namespace, key) to write, or to delete where `items` now has None.
        raised: The namespaces whose floor, or whose marks, are to be written.
        numbering: Gives the versions.
        marks: By namespace, how far queues have come: filled by the driver with what is there, where there is any.
    """

    items: dict[tuple[str, str], StateItem | None]
    floors: dict[str, int]
    changed: set[tuple[str, str]] = field(default_factory=set)
    raised: set[str] = field(default_factory=set)
    numbering: Numbering = counted
    marks: dict[str, Marks] = field(default_factory=dict)

    def apply(self, batch: Sequence[StateOp], now: datetime) -> list[Outcome[int]]:
        """Apply the operations in order; an outcome for each."""
        return each(batch, lambda op: self._apply(op, now))

    def _apply(self, op: StateOp, now: datetime) -> int:
        match op:
            case SetItems():
                return self._set(op, now)
            case DeleteKeys():
                return self._delete(op, now)
            case Increment():
                return self._increment(op, now)
            case Expire():
                return self._expire(op, now)

    def _live(self, namespace: str, key: str, now: datetime) -> StateItem | None:
        item = self.items[namespace, key]
        return item if item is not None and is_live(item.expires_at, now) else None

    def _check_version(self, namespace: str, key: str, expected: int | None, now: datetime) -> None:
        if expected is None:
            return
        item = self._live(namespace, key, now)
        version = item.version if item else 0
        if version != expected:
            raise ConflictError(
                f"key {key!r} is at version {version}, not at the expected {expected}",
                hint="Get it again, then decide",
            )

    def _put(self, namespace: str, key: str, value: Any, expires_at: datetime | None) -> int:
        old = self.items[namespace, key]
        (version,) = self.numbering(old.version if old else self.floors.get(namespace, 0), 1)
        self.items[namespace, key] = StateItem(key, value, version, expires_at)
        self.changed.add((namespace, key))
        return version

    def _set(self, op: SetItems, now: datetime) -> int:
        marks = self.marks.get(op.namespace, {})
        if passed(marks, op.mark):  # a replay: whatever has come since is newer
            return 0
        for key in op.items:
            self._check_version(op.namespace, key, op.if_version, now)
        version = 0
        for key, value in op.items.items():
            if isinstance(op.ttl, Keep):
                item = self._live(op.namespace, key, now)
                expires_at = item.expires_at if item else None
            else:
                expires_at = now + op.ttl if op.ttl else None
            version = self._put(op.namespace, key, value, expires_at)
        if op.mark is not None:
            self.marks[op.namespace] = advanced(marks, op.mark)
            self.raised.add(op.namespace)
        return version

    def _delete(self, op: DeleteKeys, now: datetime) -> int:
        for key in op.keys:
            self._check_version(op.namespace, key, op.if_version, now)
        count = 0
        for key in op.keys:
            count += self._live(op.namespace, key, now) is not None
            self.remove(op.namespace, key)
        return count

    def remove(self, namespace: str, key: str) -> None:
        """Take a key away, expired or not, and see that its versions stay used."""
        item = self.items[namespace, key]
        if item is None:
            return
        self.items[namespace, key] = None
        self.changed.add((namespace, key))
        if item.version > self.floors.get(namespace, 0):
            self.floors[namespace] = item.version
            self.raised.add(namespace)

    def _increment(self, op: Increment, now: datetime) -> int:
        item = self._live(op.namespace, op.key, now)
        total = summand(op.key, item) + op.by
        check_value(total)
        self._put(op.namespace, op.key, total, item.expires_at if item else None)
        return total

    def _expire(self, op: Expire, now: datetime) -> int:
        item = self._live(op.namespace, op.key, now)
        if item is None:
            return 0
        self._put(op.namespace, op.key, item.value, now + op.ttl if op.ttl else None)
        return 1


def summand(key: str, item: StateItem | None) -> int:
    """What an increment adds to: the value of the live item, 0 where there is none.

    Raises:
        InvalidInputError: It is no int.
    """
    value = item.value if item else 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidInputError(f"key {key!r} holds a {type(value).__name__}: only an int can be incremented")
    return value


def named_keys(batch: Iterable[StateOp]) -> list[tuple[str, str]]:
    """The distinct (namespace, key) that a batch names, sorted: the order in which to lock them."""
    names: set[tuple[str, str]] = set()
    for op in batch:
        match op:
            case SetItems():
                names.update((op.namespace, key) for key in op.items)
            case DeleteKeys():
                names.update((op.namespace, key) for key in op.keys)
            case Increment() | Expire():
                names.add((op.namespace, op.key))
    return sorted(names)
