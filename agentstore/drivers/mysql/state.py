"""The state. A namespace's floor is the lock of those who write there, and a key's row that of who only replaces it."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from pymysql.err import IntegrityError, MySQLError

from agentstore import codec, rules
from agentstore.drivers.sql import rows
from agentstore.protocol import DeleteKeys, SetItems

from . import sql
from .errors import AGAIN, code
from .literals import literal, values
from .transaction import BAD, RacedError, item_of
from .wire import answered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentstore.drivers.recent import RecentItems
    from agentstore.protocol import GetItems, Outcome, Scan, StateOp
    from agentstore.records import StateItem

    from .transaction import Wire
    from .wire import Row

_ITEM = "`key`, value, version, expires_at"
_FROM = " FROM agentstore_state FORCE INDEX (PRIMARY) WHERE "
_BLIND = (  # what setting and deleting need: an item that cannot be read can be replaced and removed
    f"`key`, 'null', version, CASE WHEN expires_at BETWEEN {rows.FIRST_MICRO} AND {rows.LAST_MICRO} THEN expires_at END"
)
_PUT = f"INSERT INTO agentstore_state (namespace, {_ITEM}) VALUES "
_PUT_FLOORS = "INSERT INTO agentstore_state_floors (namespace, floor, marks) VALUES "


async def get_items(wire: Wire, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """All keys by the primary key."""
    names = sorted({(op.namespace, key) for op in batch for key in op.keys})
    by_name = {}
    if names:
        (found,) = await wire.send(f"SELECT namespace, {_ITEM}, {sql.CLOCK}{_FROM}{_named(names)}")
        by_name = {row[:2]: row for row in found}

    def answer(op: GetItems) -> dict[str, StateItem]:
        asked = ((key, by_name.get((op.namespace, key))) for key in op.keys)
        return {key: item for key, row in asked if row is not None and (item := _live(row))}

    return rules.each(batch, answer)


def _live(row: Row) -> StateItem | None:
    item = item_of(row[1:-1])
    return item if rules.is_live(item.expires_at, codec.from_micros(row[-1])) else None


async def scan(wire: Wire, op: Scan) -> list[StateItem]:
    """A range scan of the primary key: bytes of UTF-8 have the order of codepoints."""
    conditions = [f"namespace = {literal(op.namespace)}", sql.LIVE]
    for condition, bound in (
        ("`key` >= ", op.prefix or None),
        ("`key` < ", rules.prefix_end(op.prefix)),
        ("`key` < " if op.reverse else "`key` > ", op.after),
    ):
        if bound is not None:
            conditions.append(condition + literal(bound))
    direction = "DESC" if op.reverse else "ASC"
    limit = "" if op.limit is None else f" LIMIT {sql.bounded(op.limit)}"
    (found,) = await wire.send(f"SELECT {_ITEM}{_FROM}{' AND '.join(conditions)} ORDER BY `key` {direction}{limit}")
    return [item_of(row) for row in found]


async def namespaces(wire: Wire, after: str | None, limit: int) -> list[str]:
    """Whoever has written to a namespace has made its floor; which of them have keys shows by the primary key."""
    behind = "" if after is None else f"f.namespace > {literal(after)} AND "
    (found,) = await wire.send(
        f"SELECT f.namespace FROM agentstore_state_floors AS f FORCE INDEX (PRIMARY) WHERE {behind}"
        "(SELECT 1 FROM agentstore_state AS s FORCE INDEX (PRIMARY) WHERE s.namespace = f.namespace LIMIT 1)"
        f" IS NOT NULL ORDER BY f.namespace LIMIT {sql.bounded(limit)}"
    )
    return [row[0] for row in found]


async def write_at_once(wire: Wire, batch: Sequence[StateOp], recent: RecentItems) -> list[Outcome[int]] | None:
    """Write what can be planned from what this process wrote last, in one round trip, if nobody has come between.

    Gives None where this is not the way; nothing is stored then, and `write_items` will do.
    """
    found = recent.guess(batch)
    if not found:
        return None
    namespaces = {namespace for namespace, _ in found}
    guesses = [(*name, item.version) for name, item in found.items() if item]
    plan = rules.StatePlan(found, dict.fromkeys(namespaces, 0))
    outcomes = plan.apply(batch, codec.from_micros(0))  # nothing of it has a time
    recent.forget(plan.changed)
    try:
        done = await (_replace(wire, plan, guesses[0]) if len(guesses) == 1 else _replace_all(wire, plan, guesses))
    except BAD:
        done = False
    except MySQLError as error:
        if code(error) not in AGAIN:
            raise
        done = False
    recent.written(plan.items if done else {}, () if done else namespaces)
    return outcomes if done else None


async def _replace(wire: Wire, plan: rules.StatePlan, guess: tuple[str, str, int]) -> bool:
    """Write a key that is there in this version; fails, or gives False, if it is not.

    It needs no lock but that of the row, which others look at under a lock too. A third of the time of `_replace_all`.
    """
    namespace, key, former = guess
    item = plan.items[namespace, key]
    assert item is not None  # noqa: S101  it was set
    (changed,) = await wire.send(
        f"UPDATE agentstore_state SET value = {literal(codec.value_to_text(item.value))},"
        f" version = IF(version = {former}, {item.version}, NULL), expires_at = NULL"
        f" WHERE namespace = {literal(namespace)} AND `key` = {literal(key)}"
    )
    return bool(changed)


async def _replace_all(wire: Wire, plan: rules.StatePlan, guesses: Sequence[tuple[str, str, int]]) -> bool:
    """Write keys if all of them are there in these versions; fails, or gives False, if they are not.

    Looking is a statement of its own, behind the lock: so it sees what the last holder of that has written.
    """
    namespaces = sorted({namespace for namespace, _, _ in guesses})
    named = _named(sorted(guess[:2] for guess in guesses))
    texts = values(f"{namespace}\0{key}\0{version}" for namespace, key, version in guesses)  # one: see `sql.fresh`
    there = f"SELECT COUNT(*){_FROM}({named}) AND CONCAT(namespace, 0x00, `key`, 0x00, version) IN {texts}"
    return await wire.commit(
        _locked(namespaces),
        f"UPDATE agentstore_state_floors SET floor = IF(({there} FOR UPDATE) = {len(guesses)}, floor, NULL)"
        f" WHERE namespace = {literal(namespaces[0])}",
        *_puts(wire, plan),
    )


async def write_items(wire: Wire, batch: Sequence[StateOp], recent: RecentItems) -> list[Outcome[int]]:
    """Plan against what is there, then write what the plan says."""
    blind = all(isinstance(op, (SetItems, DeleteKeys)) for op in batch)
    names = rules.named_keys(batch)
    if not names:
        return rules.StatePlan({}, {}).apply(batch, codec.from_micros(0))
    namespaces = sorted({namespace for namespace, _ in names})
    _, floors, found, clock = await wire.send(
        sql.BEGIN,
        _locked(namespaces),
        f"SELECT namespace, {_BLIND if blind else _ITEM}{_FROM}{_named(names)} FOR UPDATE",
        sql.NOW,
    )
    there = {namespace: floor for namespace, floor, _ in floors}
    plan = rules.StatePlan(dict.fromkeys(names), dict.fromkeys(namespaces, 0) | there)
    plan.items.update((row[:2], item_of(row[1:])) for row in found)
    marked = {op.namespace for op in batch if isinstance(op, SetItems) and op.mark}
    plan.marks = {row[0]: rows.namespace_marks(row[0], row[2]) for row in floors if row[0] in marked}
    outcomes = plan.apply(batch, codec.from_micros(clock[0][0]))
    if plan.changed:
        recent.forget(plan.changed)
        await _keep(wire, plan, [namespace for namespace in namespaces if namespace not in there])
        recent.written({name: plan.items[name] for name in plan.changed})
    return outcomes


async def _keep(wire: Wire, plan: rules.StatePlan, missing: Sequence[str]) -> None:
    created = list(_floors(wire, plan, missing))
    removed = sorted(name for name in plan.changed if plan.items[name] is None)
    try:
        await wire.send(
            *created,
            *_floors(wire, plan, plan.raised.difference(missing), sql.instead(["floor"]) + sql.KEEPING_MARKS),
            *([f"DELETE FROM agentstore_state WHERE {_named(removed)}"] if removed else []),
            *_puts(wire, plan),
            sql.COMMIT,
        )
    except IntegrityError as error:
        if answered(error) < len(created):
            raise RacedError from error
        raise


def _puts(wire: Wire, plan: rules.StatePlan) -> Iterable[bytes]:
    put = (
        values((*name, codec.value_to_text(item.value), item.version, rows.micros(item.expires_at)))
        for name in sorted(plan.changed)
        if (item := plan.items[name]) is not None
    )
    return wire.inserts(_PUT, put, sql.instead(["value", "version", "expires_at"]))


async def expired(wire: Wire) -> list[str]:
    """The namespaces with expired keys."""
    (found,) = await wire.send(f"SELECT DISTINCT namespace FROM agentstore_state WHERE expires_at <= {sql.CLOCK}")
    return sorted(row[0] for row in found)


async def purge(namespace: str, wire: Wire) -> int:
    """Remove the expired keys of a namespace, their versions staying used."""
    _, _, ((now,),) = await wire.send(sql.BEGIN, _locked([namespace]), sql.NOW)
    condition = f"namespace = {literal(namespace)} AND expires_at <= {now}"
    _, removed, _ = await wire.send(
        "UPDATE agentstore_state_floors SET floor = GREATEST(floor,"
        f" COALESCE((SELECT MAX(version) FROM agentstore_state WHERE {condition}), 0))"
        f" WHERE namespace = {literal(namespace)}",
        f"DELETE FROM agentstore_state WHERE {condition}",
        sql.COMMIT,
    )
    count: int = removed
    return count


def _locked(namespaces: Iterable[str]) -> str:
    return (
        "SELECT namespace, floor, marks FROM agentstore_state_floors FORCE INDEX (PRIMARY)"
        f" WHERE namespace IN {values(namespaces)} FOR UPDATE"
    )


def _floors(wire: Wire, plan: rules.StatePlan, namespaces: Iterable[str], tail: str = "") -> Iterable[bytes]:
    found = ((name, plan.floors[name], rules.marks_to_text(plan.marks.get(name, {}))) for name in namespaces)
    return wire.inserts(_PUT_FLOORS, map(values, found), tail)


def _named(names: Iterable[tuple[str, str]]) -> str:
    """The condition for sorted (namespace, key) pairs."""
    parts = [
        f"namespace = {literal(namespace)} AND `key` IN {values(key for _, key in keys)}"
        for namespace, keys in groupby(names, key=itemgetter(0))
    ]
    return parts[0] if len(parts) == 1 else " OR ".join(f"({part})" for part in parts)
