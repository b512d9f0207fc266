"""The state: functions that run whole on a connection's thread, within a transaction."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.errors import CorruptRecordError
from agentstore.protocol import DeleteKeys, SetItems
from agentstore.records import utcnow

from .conversations import bounded
from .isolation import fetched, isolated

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp
    from agentstore.records import StateItem

_ITEM = "SELECT key, value, version, expires_at FROM agentstore_state WHERE namespace = ?"
_SOME, _ONE = " AND key IN (SELECT value FROM json_each(?))", " AND key = ?"  # one is found in half the time
_BLIND = (  # what setting and deleting need: an item that cannot be read can be replaced and removed
    "SELECT key, 'null', CASE typeof(version) WHEN 'integer' THEN version ELSE"  # noqa: S608  constants
    " (SELECT coalesce(max(s.version), 0) FROM agentstore_state AS s"
    " WHERE s.namespace = agentstore_state.namespace AND typeof(s.version) = 'integer') END,"
    f" CASE WHEN expires_at BETWEEN {rows.FIRST_MICRO} AND {rows.LAST_MICRO} THEN expires_at END"
    " FROM agentstore_state WHERE namespace = ?"
)
_PUT = (
    "INSERT INTO agentstore_state (namespace, key, value, version, expires_at) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (namespace, key) DO UPDATE"
    " SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at"
)
_DELETE = "DELETE FROM agentstore_state WHERE namespace = ? AND key = ?"
_FLOORS = (
    "SELECT namespace, floor, marks FROM agentstore_state_floors WHERE namespace IN (SELECT value FROM json_each(?))"
)
_PUT_FLOOR = (
    "INSERT INTO agentstore_state_floors (namespace, floor, marks) VALUES (?, ?, ?)"
    " ON CONFLICT (namespace) DO UPDATE SET floor = excluded.floor, marks = excluded.marks"
)
_FIRST_NAMESPACE = "SELECT min(namespace) AS namespace FROM agentstore_state"
_RAISE_FLOORS = (  # as StatePlan.remove would, for any number of keys
    "INSERT INTO agentstore_state_floors (namespace, floor)"
    " SELECT namespace, max(version) FROM agentstore_state WHERE expires_at <= ? GROUP BY namespace"
    " ON CONFLICT (namespace) DO UPDATE SET floor = max(floor, excluded.floor)"
)


def get_items(connection: sqlite3.Connection, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """The live items, in the order asked for."""
    now = utcnow()

    def answer(op: GetItems) -> dict[str, StateItem]:
        found = _items(connection, _ITEM, op.namespace, op.keys)
        return {key: found[key] for key in op.keys if key in found and rules.is_live(found[key].expires_at, now)}

    return rules.each(batch, answer)


def write_items(connection: sqlite3.Connection, batch: Sequence[StateOp]) -> list[Outcome[int]]:
    """Plan against what is there, then write what the plan says."""
    return isolated(connection, batch, _write)


def _write(connection: sqlite3.Connection, batch: Sequence[StateOp]) -> list[Outcome[int]]:
    blind = all(isinstance(op, (SetItems, DeleteKeys)) for op in batch)
    plan = rules.StatePlan(items={}, floors={})
    for namespace, names in groupby(rules.named_keys(batch), key=itemgetter(0)):
        keys = [key for _, key in names]
        found = _items(connection, _BLIND if blind else _ITEM, namespace, keys)
        plan.items.update(((namespace, key), found.get(key)) for key in keys)
        plan.floors[namespace] = 0
    if None in plan.items.values() or not all(isinstance(op, SetItems) and op.mark is None for op in batch):
        _fill_floors(connection, plan)
    outcomes = plan.apply(batch, utcnow())
    _keep(connection, plan)
    return outcomes


def _fill_floors(connection: sqlite3.Connection, plan: rules.StatePlan) -> None:
    """What new keys begin above, removed ones raise, and marks stand beside."""
    for namespace, floor, marks in fetched(connection, _FLOORS, (codec.dumps(list(plan.floors)),), "namespace"):
        if not isinstance(floor, int):
            raise CorruptRecordError(f"namespace {namespace!r} has {floor!r} where a version should be")
        plan.floors[namespace], plan.marks[namespace] = floor, rows.namespace_marks(namespace, marks)


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
    sql = f"{_ITEM} AND {' AND '.join(conditions)} ORDER BY key {'DESC' if op.reverse else 'ASC'} LIMIT ?"
    found = fetched(connection, sql, (*values, -1 if op.limit is None else bounded(op.limit)), "key")
    return [rows.state_item(*row) for row in found]


def namespaces(connection: sqlite3.Connection, after: str | None, limit: int) -> list[str]:
    """The next name again and again, each found by the primary key: their keys are not walked through."""
    found: list[str] = []
    for _ in range(limit):
        sql, values = (_FIRST_NAMESPACE, ()) if after is None else (f"{_FIRST_NAMESPACE} WHERE namespace > ?", (after,))
        ((after,),) = fetched(connection, sql, values, "namespace")
        if after is None:
            break
        found.append(after)
    return found


def purge(connection: sqlite3.Connection) -> int:
    """Remove expired items, their versions staying used."""
    now = (codec.to_micros(utcnow()),)
    connection.execute(_RAISE_FLOORS, now)
    return connection.execute("DELETE FROM agentstore_state WHERE expires_at <= ?", now).rowcount


def _items(connection: sqlite3.Connection, sql: str, namespace: str, keys: Sequence[str]) -> dict[str, StateItem]:
    if len(keys) == 1:
        found = fetched(connection, sql + _ONE, (namespace, keys[0]), "key")
    else:
        found = fetched(connection, sql + _SOME, (namespace, codec.dumps(list(keys))), "key")
    return {row[0]: rows.state_item(*row) for row in found}


def _keep(connection: sqlite3.Connection, plan: rules.StatePlan) -> None:
    items = {name: plan.items[name] for name in plan.changed}
    removed = [name for name, item in items.items() if item is None]
    put = [
        (*name, codec.value_to_text(item.value), item.version, rows.micros(item.expires_at))
        for name, item in items.items()
        if item is not None
    ]
    raised = [(name, plan.floors[name], rules.marks_to_text(plan.marks.get(name, {}))) for name in plan.raised]
    for sql, values in ((_DELETE, removed), (_PUT, put), (_PUT_FLOOR, raised)):
        if values:
            connection.executemany(sql, values)
