"""The state: items of a namespace, read together and written together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.drivers.optimistic import Attempts
from agentstore.errors import AgentstoreError
from agentstore.protocol import DeleteKeys, Expire, Increment

from . import records, scripts
from .client import Command
from .keys import expired_item, expiring_item, moment
from .wire import TIME, Relisting, Wire, checked, relisting

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp
    from agentstore.records import StateItem

    from .wire import Pair

_PAGE, _ENOUGH = 1000, 2 * 2**20  # items and bytes of one step of a scan
_CHUNK = 500
_UNCHECKED = "-"


@dataclass(slots=True)
class _Namespace:
    """What was loaded of a namespace.

    Attributes:
        name: Its name.
        floor: Its floor.
        marks, marked: How far queues have come in it, and the text that says so.
        items: By key, what is there, perhaps without its value.
        versions: By key, what the script will find unless others come first; empty: nothing.
        unreadable: Keys whose value was needed, and cannot be read.
        error: Nothing could be loaded, for this reason.
    """

    name: str
    floor: int = 0
    marks: rules.Marks = field(default_factory=dict)
    marked: bytes | None = None
    items: dict[str, StateItem | None] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    unreadable: dict[str, AgentstoreError] = field(default_factory=dict)
    error: AgentstoreError | None = None

    def take(self, key: str, text: bytes | None, kept: bytes | None, *, whole: bool) -> None:
        """Note what a key holds: its text, or only the beginning; and the version that is kept beside it."""
        version = self.versions[key] = records.stored_version(text or b"") or (kept or b"").decode()
        number = int(version or self.floor)
        if not text:
            self.items[key] = records.gone(key, number) if version else None
            return
        self.items[key] = records.outline(key, text, number)
        if whole:
            try:
                self.items[key] = records.item_of(key, text)
            except AgentstoreError as error:
                self.unreadable[key] = error


async def get_items(wire: Wire, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
    """The live items, in the order asked for, those of one operation as they were at one moment."""
    if not batch:
        return []
    commands = [Command(wire.keys.namespace(batch[0].namespace).names, TIME)]
    for op in batch:
        keys = wire.keys.namespace(op.namespace)
        if op.keys:
            commands.append(Command(keys.names, ("MGET", *(keys.item + key for key in op.keys))))
    time, *replies = await wire.run(commands)
    now = wire.time_of(checked(time))
    left = iter(replies)
    answers = [next(left) if op.keys else [] for op in batch]

    def answer(pair: tuple[GetItems, Any]) -> dict[str, StateItem]:
        op, texts = pair
        found = {
            key: records.item_of(key, text)
            for key, text in zip(op.keys, checked(texts), strict=True)
            if text is not None
        }
        return {key: item for key, item in found.items() if rules.is_live(item.expires_at, now)}

    return rules.each(list(zip(batch, answers, strict=True)), answer)


async def scan(wire: Wire, op: Scan) -> list[StateItem]:
    """Steps of at most 1,000 items or 2 MiB, each as it was at one moment, unless its slot is just moving."""
    keys = wire.keys.namespace(op.namespace)
    found: list[StateItem] = []
    start, end = _bounds(op)
    while start and (op.limit is None or len(found) < op.limit):
        count = _PAGE if op.limit is None else min(_PAGE, op.limit - len(found))
        arguments = (keys.item, start, end, int(op.reverse), count, _ENOUGH, int(not wire.one_server))
        time, (after, flat) = await wire.ask(
            Command(keys.names, TIME), Command(keys.names, scripts.call(scripts.SCAN, [keys.names], *arguments))
        )
        now = wire.time_of(time)
        texts = dict(zip((key.decode() for key in flat[::2]), flat[1::2], strict=True))
        if missing := [key for key, text in texts.items() if text is None]:
            names = [keys.item + key for key in missing]
            answers = await wire.ask(*(Command(name, ("GET", name)) for name in names))
            texts.update(zip(missing, answers, strict=True))
        items = [records.item_of(key, text) for key, text in texts.items() if text is not None]
        found += [item for item in items if rules.is_live(item.expires_at, now)]
        start = after.decode()
    return found[: op.limit]


def _bounds(op: Scan) -> tuple[str, str]:
    """Where a scan begins and ends."""
    past = rules.prefix_end(op.prefix)
    low = f"[{op.prefix}" if op.prefix else "-"
    high = "+" if past is None else f"({past}"
    if op.after is not None and op.reverse and (past is None or op.after < past):
        high = f"({op.after}"
    elif op.after is not None and not op.reverse and op.after >= op.prefix:
        low = f"({op.after}"
    return (high, low) if op.reverse else (low, high)


async def write_items(wire: Wire, batch: Sequence[StateOp]) -> list[Outcome[int]]:
    """Load what the batch names, plan, and write each namespace if it is as it was; else those that are left again."""
    outcomes: dict[int, Outcome[int]] = {}
    try:
        await _write_all(wire, batch, outcomes)
    except AgentstoreError as error:
        if not outcomes:
            raise
        return [outcomes.get(index, error) for index in range(len(batch))]
    return [outcomes[index] for index in range(len(batch))]


async def _write_all(wire: Wire, batch: Sequence[StateOp], outcomes: dict[int, Outcome[int]]) -> None:
    left = dict(enumerate(batch))
    attempts = Attempts(f"writing to {len({op.namespace for op in batch})} namespaces", wire.patience)
    while left:
        loaded, now = _guessed(wire, left.values()) or await _load(wire, left.values())
        for index, op in list(left.items()):
            error = _trouble(op, loaded.get(op.namespace))
            if error is not None:
                outcomes[index] = error
                del left[index]
        plan = _plan(loaded)
        planned = plan.apply(list(left.values()), now)
        wire.items.forget(plan.changed)
        missed = await _write(wire, plan, loaded)
        wire.items.written({name: plan.items[name] for name in plan.changed if name[0] not in missed}, missed)
        for (index, op), outcome in zip(list(left.items()), planned, strict=True):
            error = missed.get(op.namespace)
            if op.namespace not in missed or error is not None:
                outcomes[index] = error or outcome
                del left[index]
        if left:
            await attempts.again()


def _trouble(op: StateOp, here: _Namespace | None) -> AgentstoreError | None:
    """Why an operation fails before it is planned: what it needs cannot be read. Without keys it needs nothing."""
    if here is None:
        return None
    if here.error is not None:
        return here.error
    return here.unreadable.get(op.key) if isinstance(op, (Increment, Expire)) else None


def _plan(loaded: Mapping[str, _Namespace]) -> rules.StatePlan:
    return rules.StatePlan(
        {(name, key): item for name, here in loaded.items() for key, item in here.items.items()},
        {name: here.floor for name, here in loaded.items()},
        marks={name: here.marks for name, here in loaded.items()},
    )


def _guessed(wire: Wire, ops: Collection[StateOp]) -> tuple[dict[str, _Namespace], datetime] | None:
    """What this process left there, see `recent`; None if it must be asked for."""
    loaded: dict[str, _Namespace] = {}
    for (namespace, key), item in (wire.items.guess(ops) or {}).items():
        here = loaded.setdefault(namespace, _Namespace(namespace))
        here.items[key], here.versions[key] = item, "" if item is None else str(item.version)
    return (loaded, codec.from_micros(0)) if loaded else None  # nothing of it has a time


async def _load(wire: Wire, ops: Collection[StateOp]) -> tuple[dict[str, _Namespace], datetime]:
    """What is there of all that operations name; values only where they are needed."""
    valued = {(op.namespace, op.key) for op in ops if isinstance(op, (Increment, Expire))}
    named: defaultdict[str, list[str]] = defaultdict(list)
    for namespace, key in rules.named_keys(ops):
        named[namespace].append(key)
    commands = [Command(wire.keys.namespace(next(iter(ops)).namespace).names, TIME)]
    for namespace, names in named.items():
        keys = wire.keys.namespace(namespace)
        commands.append(Command(keys.floor, ("MGET", keys.floor, keys.marks)))
        commands.append(Command(keys.versions, ("HMGET", keys.versions, *names)))
        for name in names:
            item = keys.item + name
            whole = (namespace, name) in valued
            commands.append(Command(item, ("GET", item) if whole else ("GETRANGE", item, 0, records.HEADER)))
    time, *answers = await wire.run(commands)
    replies = iter(answers)
    loaded = {}
    for namespace, names in named.items():
        here = loaded[namespace] = _Namespace(namespace)
        mine = [next(replies) for _ in range(2 + len(names))]
        try:
            (floor, here.marked), versions, *texts = [checked(answer) for answer in mine]
            here.floor = records.floor_of(namespace, floor or b"")
            here.marks = records.marks_of(f"namespace {namespace!r}", here.marked or b"")
        except AgentstoreError as error:
            here.error = error
            continue
        for name, text, kept in zip(names, texts, versions, strict=True):
            here.take(name, text, kept, whole=(namespace, name) in valued)
    return loaded, wire.time_of(checked(time))


async def _write(
    wire: Wire, plan: rules.StatePlan, loaded: Mapping[str, _Namespace]
) -> dict[str, AgentstoreError | None]:
    """Write what a plan says; the namespaces that were not written: with an error, or None where others came first."""
    changed: defaultdict[str, list[str]] = defaultdict(list)
    for namespace, key in sorted(plan.changed):
        changed[namespace].append(key)
    changes = []
    for namespace, names in changed.items():
        new = _entries(wire, namespace, [plan.items[namespace, key] for key in names])
        old = _entries(wire, namespace, [loaded[namespace].items[key] for key in names])
        changes.append(relisting(new, old))
    await wire.before(changes)
    commands = [
        _command(wire, plan, names, loaded[namespace], change)
        for (namespace, names), change in zip(changed.items(), changes, strict=True)
    ]
    answers = await wire.run(commands) if commands else []
    await wire.after(change for change, answer in zip(changes, answers, strict=True) if answer == 1)
    return {
        namespace: answer if isinstance(answer, AgentstoreError) else None
        for namespace, answer in zip(changed, answers, strict=True)
        if answer != 1
    }


def _command(wire: Wire, plan: rules.StatePlan, names: Sequence[str], here: _Namespace, change: Relisting) -> Command:
    """The script's call for one namespace."""
    keys = wire.keys.namespace(here.name)
    arguments: list[str | int] = []
    for name in names:
        item = plan.items[here.name, name]
        arguments += (name, here.versions[name])
        if item is None:
            arguments += ("", "", "")
        else:
            arguments += (item.version, records.expiry_millis(item.expires_at), records.item_text(item))
    begun = any(not here.versions[name] for name in names)  # their versions were counted from the floor
    items = [keys.item + name for name in names]
    marks = plan.marks[here.name]
    listings, more = wire.within(change, 5 + len(items))
    call = scripts.call(
        scripts.WRITE_ITEMS,
        [keys.names, keys.versions, keys.floor, keys.marks, *items, *listings],
        len(items),
        here.floor if begun else _UNCHECKED,
        plan.floors[here.name] if here.name in plan.raised else "",
        *((here.marked or b"", records.marks_text(marks)) if marks is not here.marks else ("", "")),
        *arguments,
        *more,
    )
    return Command(keys.names, call)


def _entries(wire: Wire, namespace: str, items: Iterable[StateItem | None]) -> list[Pair]:
    """The (listing, member) pairs by which items that expire are found."""
    return [
        (wire.keys.expiring_items, expiring_item(codec.to_micros(item.expires_at), namespace, item.key))
        for item in items
        if item is not None and item.expires_at is not None and not records.is_gone(item)
    ]


async def purge(wire: Wire) -> int:
    """Remove what has expired since the last time; how many keys that were, whether Redis took them away or this."""
    count = 0
    key = wire.keys.expiring_items
    (time,) = await wire.ask(Command(key, TIME))
    start, end = "-", f"[{moment(codec.to_micros(wire.time_of(time)))}\U0010ffff"
    while start:
        (raw,) = await wire.ask(Command(key, ("ZRANGEBYLEX", key, start, end, "LIMIT", 0, _CHUNK)))
        members = [member.decode() for member in raw]
        if members:
            count += await _purge(wire, members)
        start = f"({members[-1]}" if len(members) == _CHUNK else ""
    return count


async def _purge(wire: Wire, members: Sequence[str]) -> int:
    """Remove the keys that these entries name, unless they live again; then the entries, which none will need again."""
    named = [expired_item(member) for member in members]
    loaded, now = await _load(wire, [DeleteKeys(namespace, (key,)) for namespace, key in dict.fromkeys(named)])
    plan = _plan(loaded)
    for (namespace, key), item in list(plan.items.items()):
        if item is not None and not rules.is_live(item.expires_at, now):
            plan.remove(namespace, key)
    missed = await _write(wire, plan, loaded)
    left = missed.keys() | {namespace for namespace, here in loaded.items() if here.error is not None}
    entries = zip(named, members, strict=True)
    await wire.remove((wire.keys.expiring_items, member) for (namespace, _), member in entries if namespace not in left)
    return sum(namespace not in missed for namespace, _ in plan.changed)
