"""The state: a document for each key, replaced on condition of its version.

**No version comes twice.** A key that is deleted stays for a while as a *husk*, a version without a value; whoever sets
the key again counts on from it. When the TTL index takes a husk or an expired key away, what is left is its namespace's
floor, which was raised before the document was written that was to go. A writer who finds no document begins above the
floor. It would err only if a document came, went and was taken away between its look and its insertion; but husks
stay for ten minutes, and a writer that has looked a minute ago looks again.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from bson.datetime_ms import DatetimeMS
from pymongo import UpdateOne

from agentstore import codec, rules
from agentstore.drivers.optimistic import Attempts
from agentstore.errors import AgentstoreError, CorruptRecordError
from agentstore.protocol import DeleteKeys, SetItems

from .conditional import replace
from .documents import LARGEST_INT
from .items import item, key_id, load, named
from .marks import Marking, load_floors, raise_marks
from .together import together

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Mark, Outcome, StateOp

    from .client import Document, Tables
    from .clock import Clock

_HUSK = 600_000_000  # microseconds that a husk stays: ten minutes
_FRESH = 60.0  # seconds for which a writer relies on what it has read
_AHEAD = 100  # how far a floor is raised at once, so that not each change of a key with a TTL raises it
_AT_ONCE = 1000


class _Step(NamedTuple):
    """The part of an operation that concerns one key; `place` is the operation's in the batch, `mark` its mark."""

    place: int
    name: tuple[str, str]
    op: StateOp
    mark: Mark | None = None


async def write_items(tables: Tables, clock: Clock, batch: Sequence[StateOp], patience: float) -> list[Outcome[int]]:
    """Two round trips for a group of any size: documents, documents; one more if a floor rises, or for marks."""
    steps = [step for index, op in enumerate(batch) for step in _steps(index, op)]
    done: dict[int, Outcome[int]] = {}
    floors: dict[str, Document] = {}
    left = dict(enumerate(steps))
    attempts = Attempts(f"writing {len(steps)} keys", patience)
    while left:
        outcomes, missed = await _attempt(tables, clock, list(left.values()), floors)
        done |= {
            place: outcome
            for (place, step), outcome in zip(left.items(), outcomes, strict=True)
            if step.name not in missed
        }
        left = {place: step for place, step in left.items() if place not in done}
        if left:
            await attempts.again()
    by_op: list[list[Outcome[int]]] = [[] for _ in batch]
    for place, step in enumerate(steps):
        by_op[step.place].append(done[place])
    combined = [_combined(op, outcomes) for op, outcomes in zip(batch, by_op, strict=True)]
    reached: defaultdict[str, list[Mark]] = defaultdict(list)
    for op, outcome in zip(batch, combined, strict=True):
        if isinstance(op, SetItems) and op.mark and isinstance(outcome, int):
            reached[op.namespace].append(op.mark)
    await raise_marks(tables, floors, reached, patience)
    return combined


def _steps(index: int, op: StateOp) -> list[_Step]:
    """Each key for itself: that is what is atomic here."""
    match op:
        case SetItems():
            return [
                _Step(index, (op.namespace, key), SetItems(op.namespace, {key: value}, op.ttl, op.if_version), op.mark)
                for key, value in op.items.items()
            ]
        case DeleteKeys():
            return [
                _Step(index, (op.namespace, key), DeleteKeys(op.namespace, (key,), op.if_version)) for key in op.keys
            ]
        case _:
            return [_Step(index, (op.namespace, op.key), op)]


def _combined(op: StateOp, outcomes: Sequence[Outcome[int]]) -> Outcome[int]:
    numbers: list[int] = []
    for outcome in outcomes:
        if isinstance(outcome, AgentstoreError):
            return outcome
        numbers.append(outcome)
    return sum(numbers) if isinstance(op, DeleteKeys) else (numbers[-1] if numbers else 0)


async def _attempt(
    tables: Tables, clock: Clock, steps: Sequence[_Step], floors: dict[str, Document]
) -> tuple[list[Outcome[int]], set[tuple[str, str]]]:
    """Outcomes, and the keys for which they do not hold since others were faster; notes the floors it has seen."""
    begun = time.monotonic()
    now = await clock.now(tables)
    names = {step.name for step in steps}
    found, there = await together(
        load(tables, [key_id(*name) for name in names]), load_floors(tables, {namespace for namespace, _ in names})
    )
    floors |= there
    heights = {namespace: document.get("floor", 0) for namespace, document in there.items()}
    documents = {name: found[key_id(*name)] for name in names if key_id(*name) in found}
    plan, marking = rules.StatePlan(items=dict.fromkeys(names), floors=dict(heights)), Marking(there)
    unreadable = _fill(plan, marking, documents, steps)
    answers = [unreadable.get((step.name, _reads(step.op))) or _apply(plan, marking, step, now) for step in steps]

    changed = _changed(plan, marking, documents, now)
    await _raise_floors(tables, heights, changed)
    if time.monotonic() - begun > _FRESH:
        return answers, set(plan.changed)
    missed = await replace(
        tables.state,
        {document["_id"]: (documents.get(name, {}).get("version"), document) for name, document in changed.items()},
    )
    return answers, {name for name in plan.changed if key_id(*name) in missed}


def _apply(plan: rules.StatePlan, marking: Marking, step: _Step, now: datetime) -> Outcome[int]:
    if marking.passed(step.name, step.mark):
        return 0
    (outcome,) = plan.apply([step.op], now)
    if isinstance(outcome, int):
        marking.advance(step.name, step.mark)
    return outcome


def _reads(op: StateOp) -> bool:
    """Whether an operation needs the old value; setting and deleting do not."""
    return not isinstance(op, (SetItems, DeleteKeys))


def _fill(
    plan: rules.StatePlan, marking: Marking, documents: Mapping[tuple[str, str], Document], steps: Iterable[_Step]
) -> dict[tuple[tuple[str, str], bool], AgentstoreError]:
    """Tell the plan what is there; the errors, by key and whether they concern who `_reads` it.

    So a key whose value cannot be read can be replaced and removed, whoever else in the batch wants that value.
    """
    unreadable: dict[tuple[tuple[str, str], bool], AgentstoreError] = {}
    for name, reads in sorted({(step.name, _reads(step.op)) for step in steps}):  # what was read stays, if it could be
        document = documents.get(name, {})
        try:
            marking.take(name, document)
            if "value" in document:
                plan.items[name] = item(document if reads else _without_value(document))
            elif document:
                plan.floors[name[0]] = max(plan.floors.get(name[0], 0), _husk_version(name, document))
        except CorruptRecordError as error:
            unreadable[name, reads] = error
    return unreadable


def _husk_version(name: tuple[str, str], document: Document) -> int:
    version = document.get("version")
    if not isinstance(version, int):
        raise CorruptRecordError(
            f"what is left of the deleted key {name[1]!r} cannot be read: its version is {version!r}",
            hint=f"Delete the document {document['_id']!r}; the key's versions may then begin anew",
        )
    return version


def _without_value(document: Document) -> Document:
    return document | {"version": _version(document), "value": "null"}


def _version(document: Document) -> int:
    version = document.get("version")
    return version if isinstance(version, int) else 0


def _changed(
    plan: rules.StatePlan, marking: Marking, documents: Mapping[tuple[str, str], Document], now: datetime
) -> dict[tuple[str, str], Document]:
    """What to put in the place of each key that changes."""
    changed: dict[tuple[str, str], Document] = {}
    for name in plan.changed:
        new = plan.items[name]
        if new is None:
            used = max(plan.floors.get(name[0], 0), _version(documents.get(name, {})))
            changed[name] = _husk(key_id(*name), used + 1, codec.to_micros(now), marking.fields(name))
            continue
        document: Document = {"_id": key_id(*name), "version": new.version, "value": codec.value_to_text(new.value)}
        if new.expires_at is not None:
            document["expires_at"] = codec.to_micros(new.expires_at)
            document["remove_at"] = _removal(document["expires_at"])
        changed[name] = document | marking.fields(name)
    return changed


def _husk(document_id: str, version: int, now: int, marks: Document) -> Document:
    """What stays of a deleted key until nobody can still be about to write it, and its namespace has its marks."""
    until = {"husk": True, "expires_at": now + _HUSK} if marks else {"remove_at": _removal(now)}
    return {"_id": document_id, "version": version} | marks | until


def _removal(micros: int) -> DatetimeMS:
    """When the TTL index may take a document away that is out of sight at `micros`: never before."""
    return DatetimeMS(-(-(micros + _HUSK) // 1000))


async def _raise_floors(tables: Tables, floors: Mapping[str, int], changed: Mapping[tuple[str, str], Document]) -> None:
    """See to it that the floors lie no lower than the versions of all documents that will be taken away."""
    needed: dict[str, int] = {}
    for (namespace, _), document in changed.items():
        if "remove_at" in document and document["version"] > max(floors.get(namespace, 0), needed.get(namespace, 0)):
            needed[namespace] = document["version"]
    if needed:
        await tables.floors.bulk_write(
            [
                UpdateOne({"_id": namespace}, {"$max": {"floor": min(version + _AHEAD, LARGEST_INT)}}, upsert=True)
                for namespace, version in needed.items()
            ],
            ordered=False,
        )


async def purge(tables: Tables, now: datetime) -> int:
    """Make husks of expired keys; the TTL index takes them away. Husks that wait for their namespace are seen to."""
    count, micros = 0, codec.to_micros(now)
    query, seen = {"expires_at": {"$lte": micros}}, {"version": 1, "marks": 1, "husk": 1}
    while found := await tables.state.find(query, seen, limit=_AT_ONCE).to_list(None):
        marked = {named(document["_id"])[0] for document in found if "marks" in document}
        marking = Marking(await load_floors(tables, marked))
        husks = {}
        for document in found:
            name = named(document["_id"])
            marking.take(name, document)
            marking.forget(name)
            husks[name] = _husk(document["_id"], _version(document) + 1, micros, marking.fields(name))
        await _raise_floors(tables, {}, husks)
        versions = {document["_id"]: document.get("version") for document in found}
        missed = await replace(
            tables.state, {entry["_id"]: (versions[entry["_id"]], entry) for entry in husks.values()}
        )
        count += sum("husk" not in document and document["_id"] not in missed for document in found)
    return count
