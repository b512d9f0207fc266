"""The state: what each operation sends to the server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import asyncpg

from agentstore import codec, rules
from agentstore.drivers import optimistic
from agentstore.drivers.recent import RecentItems
from agentstore.drivers.sql import rows
from agentstore.protocol import Expire, Increment, SetItems

from .isolation import failures
from .sessions import bounded
from .statements import StateStatements

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp
    from agentstore.records import StateItem

_PURGED = 500  # keys in one transaction


@dataclass(frozen=True, slots=True)
class _Former:
    """What a plan was made against, and what must still hold when it is written.

    Attributes:
        items, floors: As those of `rules.StatePlan`, before it was applied.
        marks: The text that a namespace's floor has in place of marks.
    """

    items: dict[tuple[str, str], StateItem | None]
    floors: dict[str, int]
    marks: dict[str, str | None]


class State:
    """State in the tables of one schema.

    Args:
        schema: Where they are, quoted.
        patience: Seconds after which a write gives up that others keep overtaking.
        place: Which database, for messages; without password.
    """

    def __init__(self, schema: str, patience: float, place: str) -> None:
        self._sql = StateStatements(schema)
        self._patience = patience
        self._place = place
        self._recent = RecentItems()

    async def get_items(
        self, connection: asyncpg.Connection, batch: Sequence[GetItems]
    ) -> list[Outcome[dict[str, StateItem]]]:
        """The live items, in the order asked for."""
        names = {(op.namespace, key) for op in batch for key in op.keys}
        found = {(row[0], row[1]): row for row in await connection.fetch(self._sql.get, *_pairs(names))}

        def answer(op: GetItems) -> dict[str, StateItem]:
            here = [row for key in op.keys if (row := found.get((op.namespace, key))) is not None]
            return {row[1]: rows.state_item(*row[1:]) for row in here}

        return rules.each(batch, answer)

    async def write_items(self, connection: asyncpg.Connection, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        """Plan against what is or was left there (`recent`); write each namespace if it has not changed since."""
        attempts = optimistic.Attempts(f"writing to {len({op.namespace for op in batch})} scopes", self._patience)
        once = partial(self._write, connection)
        return await optimistic.settled(batch, once, attempts, failures(connection, self._place))

    async def scan(self, connection: asyncpg.Connection, op: Scan) -> list[StateItem]:
        """A range scan of the primary key."""
        conditions, values = "", [op.namespace]
        for condition, bound in (
            ("key >=", op.prefix or None),
            ("key <", rules.prefix_end(op.prefix)),
            ("key <" if op.reverse else "key >", op.after),
        ):
            if bound is not None:
                values.append(bound)
                conditions += f" AND {condition} ${len(values)}"
        sql = self._sql.scan(conditions, "DESC" if op.reverse else "ASC", len(values) + 1)
        found = await connection.fetch(sql, *values, None if op.limit is None else bounded(op.limit))
        return [rows.state_item(*row) for row in found]

    async def namespaces(self, connection: asyncpg.Connection, after: str | None, limit: int) -> list[str]:
        """The next name again and again, each found by the primary key: their keys are not walked through."""
        if after is None:
            found = await connection.fetch(self._sql.namespaces, bounded(limit))
        else:
            found = await connection.fetch(self._sql.namespaces_after, bounded(limit), after)
        return [row[0] for row in found]

    async def purge(self, connection: asyncpg.Connection) -> int:
        """Remove expired items, some at a time, their versions staying used."""
        purged, last = 0, ("", "")
        while True:
            found = await connection.fetch(self._sql.expired, *last, _PURGED)
            names = [(namespace, key) for namespace, key, _version in found]
            plan, former, now = await self._load(connection, names, frozenset())
            for name in names:
                item = plan.items[name]
                if item is not None and not rules.is_live(item.expires_at, now):
                    plan.remove(*name)
            lost = await self._keep(connection, plan, former)
            purged += sum(namespace not in lost for namespace, _ in plan.changed)
            if len(found) < _PURGED:
                return purged
            last = names[-1]

    async def _write(self, connection: asyncpg.Connection, ops: Sequence[StateOp]) -> list[Outcome[int] | None]:
        """One pass; None for those in whose namespace nothing was written."""
        # what is set or deleted is not looked at: large values stay where they are, unreadable ones can be mended
        whole = frozenset((op.namespace, op.key) for op in ops if isinstance(op, (Increment, Expire)))
        if found := self._recent.guess(ops):
            plan = rules.StatePlan(found, {namespace: 0 for namespace, _ in found})
            former, now = _Former(dict(found), {}, {}), codec.from_micros(0)  # nothing of it has a time
        else:
            plan, former, now = await self._load(connection, rules.named_keys(ops), whole)
        marked = {op.namespace for op in ops if isinstance(op, SetItems) and op.mark}
        plan.marks = {name: rows.namespace_marks(name, former.marks.get(name)) for name in marked}
        planned = plan.apply(ops, now)
        self._recent.forget(plan.changed)
        lost = await self._keep(connection, plan, former)
        self._recent.written({name: plan.items[name] for name in plan.changed if name[0] not in lost}, lost)
        return [None if op.namespace in lost else outcome for op, outcome in zip(ops, planned, strict=True)]

    async def _load(
        self, connection: asyncpg.Connection, names: Sequence[tuple[str, str]], whole: frozenset[tuple[str, str]]
    ) -> tuple[rules.StatePlan, _Former, datetime]:
        """One snapshot of the items and floors that a plan needs, and the time; values only of those in `whole`."""
        marks: dict[str, str | None] = {}
        plan = rules.StatePlan(items=dict.fromkeys(names), floors={namespace: 0 for namespace, _ in names})
        wanted = [name in whole for name in names]
        found = await connection.fetch(self._sql.load, *_pairs(names), wanted, list(plan.floors))
        for moment, namespace, key, value, version, expires_at in found:
            if moment is not None:
                now = moment
            elif key is None:
                plan.floors[namespace], marks[namespace] = version, value
            else:
                plan.items[namespace, key] = rows.state_item(key, value, version, expires_at)
        return plan, _Former(dict(plan.items), dict(plan.floors), marks), now

    async def _keep(self, connection: asyncpg.Connection, plan: rules.StatePlan, former: _Former) -> set[str]:
        """Write what the plan says; the namespaces of which nothing was written, for something had changed there."""
        if not plan.changed:
            return set()
        # where keys come or go, the floor is the lock: a key may have come and gone since it was found missing
        gate = plan.raised | {
            name[0] for name in plan.changed if former.items[name] is None or plan.items[name] is None
        }
        named = [(*name, *_stored(plan.items[name]), _version(former.items[name])) for name in plan.changed]
        if len(named) == 1 and not gate:  # the writer who is alone: a third of the time
            held = await connection.fetchval(self._sql.replace, *named[0])
            return set() if held else {named[0][0]}
        values = [
            list(gate),
            [plan.floors[namespace] for namespace in gate],
            [rules.marks_to_text(plan.marks.get(namespace, {})) for namespace in gate],
            json.dumps({namespace: former.floors[namespace] for namespace in gate}),
            json.dumps({namespace: former.marks.get(namespace) for namespace in plan.marks}),
            *map(list, zip(*named, strict=True)),
        ]
        try:
            return {row[0] for row in await connection.fetch(self._sql.write, *values)}
        except asyncpg.UniqueViolationError:  # a key came while we waited for the floor, and our snapshot lacks it
            return {namespace for namespace, _ in plan.changed}


def _stored(item: StateItem | None) -> tuple[str | None, int | None, int | None]:
    """Value, version and expiry as columns; nothing of an item that is to go."""
    return (
        (None, None, None)
        if item is None
        else (codec.value_to_text(item.value), item.version, rows.micros(item.expires_at))
    )


def _version(item: StateItem | None) -> int | None:
    return None if item is None else item.version


def _pairs(names: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    found = list(names)
    return [namespace for namespace, _ in found], [key for _, key in found]
