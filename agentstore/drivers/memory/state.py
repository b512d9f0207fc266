"""The state in dicts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentstore import rules
from agentstore.protocol import SetItems
from agentstore.records import StateItem, copy_json, utcnow

from .shared import Shared

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp


class State(Shared):
    """Items by namespace and key; their order is found when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._items: dict[str, dict[str, StateItem]] = {}
        self._floors: dict[str, int] = {}
        self._marks: dict[str, rules.Marks] = {}

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        with self._lock:
            self._check_open()
            return rules.each(batch, self._get)

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        with self._lock:
            self._check_open()
            plan = self._plan(rules.named_keys(batch))
            outcomes = plan.apply([_own_values(op) for op in batch], utcnow())
            self._keep(plan)
            return outcomes

    async def scan(self, scan: Scan) -> list[StateItem]:
        with self._lock:
            self._check_open()
            now = utcnow()
            found = [
                item
                for key, item in self._items.get(scan.namespace, {}).items()
                if key.startswith(scan.prefix)
                and rules.is_live(item.expires_at, now)
                and (scan.after is None or (key < scan.after if scan.reverse else key > scan.after))
            ]
            found.sort(key=lambda item: item.key, reverse=scan.reverse)
            return [_item(item) for item in found[: scan.limit]]

    async def namespaces(self, after: str | None = None, limit: int = 1000) -> list[str]:
        with self._lock:
            self._check_open()
            return sorted(name for name, items in self._items.items() if items and (after is None or name > after))[
                :limit
            ]

    async def purge_state(self) -> int:
        with self._lock:
            self._check_open()
            now = utcnow()
            expired = [
                (namespace, key)
                for namespace, items in self._items.items()
                for key, item in items.items()
                if not rules.is_live(item.expires_at, now)
            ]
            plan = self._plan(expired)
            for namespace, key in expired:
                plan.remove(namespace, key)
            self._keep(plan)
            return len(expired)

    def _get(self, op: GetItems) -> dict[str, StateItem]:
        items, now = self._items.get(op.namespace, {}), utcnow()
        return {key: _item(items[key]) for key in op.keys if key in items and rules.is_live(items[key].expires_at, now)}

    def _plan(self, names: Iterable[tuple[str, str]]) -> rules.StatePlan:
        names = list(names)
        return rules.StatePlan(
            items={name: self._items.get(name[0], {}).get(name[1]) for name in names},
            floors={namespace: self._floors.get(namespace, 0) for namespace, _ in names},
            marks={namespace: self._marks.get(namespace, {}) for namespace, _ in names},
        )

    def _keep(self, plan: rules.StatePlan) -> None:
        for name in plan.changed:
            namespace, key = name
            item = plan.items[name]
            if item is None:
                self._items.get(namespace, {}).pop(key, None)
            else:
                self._items.setdefault(namespace, {})[key] = item
        self._floors.update((namespace, plan.floors[namespace]) for namespace in plan.raised)
        self._marks.update((namespace, plan.marks[namespace]) for namespace in plan.raised)


# Records and operations whose values nobody else holds:


def _item(item: StateItem) -> StateItem:
    return replace(item, value=copy_json(item.value))


def _own_values(op: StateOp) -> StateOp:
    return replace(op, items=copy_json(dict(op.items))) if isinstance(op, SetItems) else op
