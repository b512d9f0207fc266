"""The state: a row for each version of a key, of which the highest counts."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from agentstore import codec, rules
from agentstore.protocol import DeleteKeys, SetItems
from agentstore.records import StateItem, utcnow

from . import sending
from .literals import MOST, listed, literal, portions
from .records import item_of, micros
from .schema import MARKED, NEVER, STATE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp

    from .link import Link, Row
    from .numbers import Writer

_BLIND = "namespace, key, 'null', version, expires_at, deleted"  # what cannot be read can be replaced and removed
_NEWEST = "ORDER BY namespace, key, version DESC LIMIT 1 BY namespace, key"
_EXTRA = 20  # rows more than a scan is to give: some will be gone
_WIDER = 4
_MOST = 10_000  # rows in one step of a scan
_NAMES = MOST // 4  # keys in a statement: each may be of another namespace, and bring a condition

_FIRST = "\1"  # below it there are marks only

PURGED = 1000
"""Keys that go in one block."""


async def get_items(link: Link, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """All keys by the primary key."""
    names = sorted({(op.namespace, key) for op in batch for key in op.keys})
    found = {row[:2]: row for row in await _load(link, STATE_COLUMNS, names)}
    now = utcnow()

    def answer(op: GetItems) -> dict[str, StateItem]:
        there = ((key, found[op.namespace, key]) for key in op.keys if (op.namespace, key) in found)
        return {key: item_of(*row[1:5]) for key, row in there if _is_live(row, codec.to_micros(now))}

    return rules.each(batch, answer)


async def scan(link: Link, op: Scan) -> list[StateItem]:
    """In steps, until there are enough: strings are compared byte by byte, which is the order of codepoints."""
    now = codec.to_micros(utcnow())
    found: list[StateItem] = []
    after = op.after
    step = None if op.limit is None else op.limit + _EXTRA
    while op.limit is None or len(found) < op.limit:
        limit = "" if step is None else f" LIMIT {min(step, _MOST)}"
        direction = "DESC" if op.reverse else "ASC"
        rows = await link.select(
            f"SELECT {STATE_COLUMNS} FROM agentstore_state WHERE {' AND '.join(_range(op, after))}"
            f" ORDER BY key {direction}, version DESC LIMIT 1 BY key{limit}"
        )
        found += [item_of(*row[1:5]) for row in rows if _is_live(row, now)]
        if step is None or len(rows) < min(step, _MOST):
            break
        after = rows[-1][1]
        step *= _WIDER
    return found[: op.limit]


def _range(op: Scan, after: str | None) -> Iterator[str]:
    yield f"namespace = {literal(op.namespace)}"
    for condition, bound in (
        ("key >= ", op.prefix or _FIRST),
        ("key < ", rules.prefix_end(op.prefix)),
        ("key < " if op.reverse else "key > ", after),
    ):
        if bound is not None:
            yield condition + literal(bound)


async def namespaces(link: Link, after: str | None, limit: int) -> list[str]:
    """Those of which a key counts. The server looks at all keys behind `after`, once for each call."""
    behind = "" if after is None else f" AND namespace > {literal(after)}"
    found = await link.select(
        f"SELECT DISTINCT namespace FROM (SELECT namespace, key FROM agentstore_state WHERE key >= {literal(_FIRST)}"
        f"{behind} GROUP BY namespace, key HAVING argMax(deleted, version) = 0) ORDER BY namespace LIMIT {limit}"
    )
    return [row[0] for row in found]


async def write_items(link: Link, writer: Writer, batch: Sequence[StateOp]) -> list[Outcome[int]]:
    """Plan against what is there, then insert one block; nobody else of this process writes the state meanwhile."""
    blind = all(isinstance(op, (SetItems, DeleteKeys)) for op in batch)
    names = rules.named_keys(batch)
    plan = rules.StatePlan(dict.fromkeys(names), {}, numbering=writer.versions)
    marks = {(op.namespace, MARKED + op.mark.queue) for op in batch if isinstance(op, SetItems) and op.mark}
    for row in await _load(link, _BLIND if blind else STATE_COLUMNS, sorted({*names, *marks})):
        _add(plan, row)
    outcomes = plan.apply(batch, utcnow())
    await _keep(link, writer, plan)
    return outcomes


async def expired(link: Link) -> list[tuple[str, str]]:
    """The keys that seem to have expired."""
    found = await link.select(
        "SELECT namespace, key FROM agentstore_state GROUP BY namespace, key HAVING argMax(deleted, version) = 0"
        f" AND argMax(expires_at, version) <= {codec.to_micros(utcnow())} ORDER BY namespace, key"
    )
    return [(namespace, key) for namespace, key in found]


async def purge(link: Link, writer: Writer, names: Sequence[tuple[str, str]]) -> int:
    """Remove those of them that have expired."""
    now = codec.to_micros(utcnow())
    plan = rules.StatePlan(dict.fromkeys(names), {}, numbering=writer.versions)
    over = [row for row in await _load(link, _BLIND, names) if not row[5] and row[4] <= now]
    for row in over:
        _add(plan, row)
        plan.remove(row[0], row[1])
    await _keep(link, writer, plan)
    return len(over)


async def _load(link: Link, columns: str, names: Sequence[tuple[str, str]]) -> list[Row]:
    """The newest rows of sorted (namespace, key) pairs, tombstones among them."""
    found: list[Row] = []
    for part in portions(names, _NAMES):
        conditions = [
            f"(namespace = {literal(namespace)} AND key IN {listed(key for _, key in keys)})"
            for namespace, keys in groupby(part, key=itemgetter(0))
        ]
        found += await link.select(f"SELECT {columns} FROM agentstore_state WHERE {' OR '.join(conditions)} {_NEWEST}")
    return found


def _is_live(row: Row, now: int) -> bool:
    return not row[5] and row[4] > now


def _add(plan: rules.StatePlan, row: Row) -> None:
    """Tell the plan what a row says; a tombstone says how far the versions of its key went."""
    namespace, key, value, version, expires_at, deleted = row
    if key.startswith(MARKED):
        plan.marks[namespace] = {**plan.marks.get(namespace, {}), key.removeprefix(MARKED): version}
    elif deleted:
        plan.floors[namespace] = max(version, plan.floors.get(namespace, 0))
    else:
        plan.items[namespace, key] = item_of(key, value, version, expires_at)


async def _keep(link: Link, writer: Writer, plan: rules.StatePlan) -> None:
    rows = [*_rows(plan.changed, plan, writer), *_marks(plan)]
    if rows:
        await sending.insert_state(link, writer.sent, rows)


def _marks(plan: rules.StatePlan) -> Iterator[Row]:
    for namespace in sorted(plan.raised):
        for queue, position in plan.marks.get(namespace, {}).items():
            yield (namespace, MARKED + queue, "", position, NEVER, 1)


def _rows(names: Iterable[tuple[str, str]], plan: rules.StatePlan, writer: Writer) -> Iterator[Row]:
    for namespace, key in sorted(names):
        item = plan.items[namespace, key]
        if item is None:
            (version,) = writer.versions(plan.floors[namespace], 1)
            yield (namespace, key, "", version, NEVER, 1)
        else:
            value = codec.value_to_text(item.value)
            yield (namespace, key, value, item.version, micros(item.expires_at), 0)
