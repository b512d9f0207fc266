"""The state: functions that run whole on a connection's thread, within a transaction."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.records import utcnow

from .conversations import bounded

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp
    from agentstore.records import StateItem

_ITEM = "SELECT key, value, version, expires_at FROM agentstore_state WHERE namespace = ?"
_GET = f"{_ITEM} AND key IN (SELECT value FROM json_each(?))"  # noqa: S608  constants
_PUT = (
    "INSERT INTO agentstore_state (namespace, key, value, version, expires_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, key) DO UPDATE"
    " SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at"
)
_DELETE = "DELETE FROM agentstore_state WHERE namespace = ? AND key = ?"
_FLOORS = "SELECT namespace, floor FROM agentstore_state_floors WHERE namespace IN (SELECT value FROM json_each(?))"
_PUT_FLOOR = (
    "INSERT INTO agentstore_state_floors (namespace, floor) VALUES (?, ?)"
    " ON CONFLICT (namespace) DO UPDATE SET floor = excluded.floor"
)
_RAISE_FLOORS = (  # as StatePlan.remove would, for any number of keys
    "INSERT INTO agentstore_state_floors (namespace, floor)"
    " SELECT namespace, max(version) FROM agentstore_state WHERE expires_at <= ? GROUP BY namespace"
    " ON CONFLICT (namespace) DO UPDATE SET floor = max(floor, excluded.floor)"
)


def get_items(connection: sqlite3.Connection, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """The live items, in the order asked for."""
    now = utcnow()

    def answer(op: GetItems) -> dict[str, StateItem]:
        found = _items(connection, op.namespace, op.keys)
        return {key: found[key] for key in op.keys if key in found and rules.is_live(found[key].expires_at, now)}

    return rules.each(batch, answer)


def write_items(connection: sqlite3.Connection, batch: Sequence[StateOp]) -> list[Outcome[int]]:
    """Plan against what is there, then write what the plan says."""
    plan = rules.StatePlan(items={}, floors={})
    for namespace, names in groupby(rules.named_keys(batch), key=itemgetter(0)):
        keys = [key for _, key in names]
        found = _items(connection, namespace, keys)
        plan.items.update(((namespace, key), found.get(key)) for key in keys)
        plan.floors[namespace] = 0
    plan.floors.update(connection.execute(_FLOORS, (codec.dumps(list(plan.floors)),)).fetchall())
    outcomes = plan.apply(batch, utcnow())
    _keep(connection, plan)
    return outcomes


def scan(connection: sqlite3.Connection, op: Scan) -> list[StateItem]:
    """A range scan of the primary key."""
    conditions = ["(expires_at IS NULL OR expires_at > ?)"]
    values: list[Any] = [op.namespace, codec.to_micros(utcnow())]
    for condition, bound in (
        ("key >= ?", op.prefix or None),
        ("key < ?", rules.prefix_end(op.prefix)),
        ("key < ?" if op.reverse else "key > ?", op.after),
    ):
        if bound is not None:
            conditions.append(condition)
            values.append(bound)
    found = connection.execute(
        f"{_ITEM} AND {' AND '.join(conditions)} ORDER BY key {'DESC' if op.reverse else 'ASC'} LIMIT ?",
        (*values, -1 if op.limit is None else bounded(op.limit)),
    )
    return [rows.state_item(*row) for row in found.fetchall()]


def purge(connection: sqlite3.Connection) -> int:
    """Remove expired items, their versions staying used."""
    now = (codec.to_micros(utcnow()),)
    connection.execute(_RAISE_FLOORS, now)
    return connection.execute("DELETE FROM agentstore_state WHERE expires_at <= ?", now).rowcount


def _items(connection: sqlite3.Connection, namespace: str, keys: Iterable[str]) -> dict[str, StateItem]:
    found = connection.execute(_GET, (namespace, codec.dumps(list(keys)))).fetchall()
    return {row[0]: rows.state_item(*row) for row in found}


def _keep(connection: sqlite3.Connection, plan: rules.StatePlan) -> None:
    items = {name: plan.items[name] for name in plan.changed}
    connection.executemany(_DELETE, [name for name, item in items.items() if item is None])
    connection.executemany(
        _PUT,
        [
            (*name, codec.value_to_text(item.value), item.version, rows.micros(item.expires_at))
            for name, item in items.items()
            if item is not None
        ],
    )
    connection.executemany(_PUT_FLOOR, [(namespace, plan.floors[namespace]) for namespace in plan.raised])
