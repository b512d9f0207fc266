"""The marks of the state: in the document of each key, and then of its namespace.

No step can write a key and its namespace at once. So a set that has waited in a queue leaves its mark with each key, in
the step that writes it, and with the namespace when all its keys are written; only then it is done. A replay finds the
namespace's mark, and changes nothing; or, where the writer died in between, those of the keys that it had reached, and
writes the others. That is exact as long as a key keeps its mark until its namespace has it: so does whatever is written
over it, and a husk that has one is not taken away, but looked at again by the purge.

What an expired key leaves is the exception: the TTL index takes it away ten minutes after its time, marks and all. If
its writer died in between *and* the replay comes even later, it is set anew, for as long again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pymongo import UpdateOne

from agentstore import rules
from agentstore.drivers.optimistic import Attempts
from agentstore.errors import CorruptRecordError
from agentstore.rules.marks import KEPT

from .conditional import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from agentstore.protocol import Mark

    from .client import Document, Tables

_Name = tuple[str, str]


@dataclass(slots=True)
class Marking:
    """The marks around some keys, and what they come to.

    Attributes:
        floors: By namespace, the document that keeps them; there need not be one.
        namespaces: By namespace, its marks, as far as needed.
        keys: By (namespace, key), those marks that its namespace may not have yet.
    """

    floors: Mapping[str, Document]
    namespaces: dict[str, rules.Marks] = field(default_factory=dict)
    keys: dict[_Name, rules.Marks] = field(default_factory=dict)

    def take(self, name: _Name, document: Document) -> None:
        """Note what a key's document holds.

        Raises:
            CorruptRecordError: Its marks, or those of its namespace, cannot be read.
        """
        namespace, key = name
        if namespace not in self.namespaces:
            self.namespaces[namespace] = _of_namespace(self.floors, namespace)
        have = self.namespaces[namespace]
        marks = _read(f"key {key!r}", document.get("marks"))
        self.keys[name] = {queue: position for queue, position in marks.items() if have.get(queue, 0) < position}

    def forget(self, name: _Name) -> None:
        """Let go of marks that the namespace has had, and forgotten over those of many others."""
        have = self.namespaces[name[0]]
        if len(have) >= KEPT:
            self.keys[name] = {queue: position for queue, position in self.keys[name].items() if queue in have}

    def passed(self, name: _Name, mark: Mark | None) -> bool:
        """Whether a write of this mark has reached the key before."""
        return rules.passed(self.namespaces[name[0]], mark) or rules.passed(self.keys[name], mark)

    def advance(self, name: _Name, mark: Mark | None) -> None:
        """A write of this mark reaches the key."""
        self.keys[name] = rules.advanced(self.keys[name], mark)

    def fields(self, name: _Name) -> Document:
        """What the key's document is to hold of them; nothing if there are none."""
        text = rules.marks_to_text(self.keys[name])
        return {"marks": text} if text else {}


async def raise_marks(
    tables: Tables, floors: Mapping[str, Document], reached: Mapping[str, Sequence[Mark]], patience: float
) -> None:
    """Let namespaces have the marks of what is written.

    Args:
        tables: Where.
        floors: The documents of namespaces as they were a moment ago.
        reached: By namespace, the marks, in order.
        patience: Seconds after which to give up where others keep coming first.
    """
    attempts = Attempts(f"marking {len(reached)} namespaces", patience)
    left = dict(reached)
    while left:
        old = {namespace: floors.get(namespace, {}).get("marks") for namespace in left}
        new = {
            namespace: rules.marks_to_text(_advanced(_of_namespace(floors, namespace), marks))
            for namespace, marks in left.items()
        }
        updates = {
            namespace: UpdateOne({"_id": namespace, "marks": old[namespace]}, {"$set": {"marks": text}}, upsert=True)
            for namespace, text in new.items()
            if text != old[namespace]
        }
        missed = await write(tables.floors, updates)
        left = {namespace: left[namespace] for namespace in missed}
        if left:
            await attempts.again()
            floors = await load_floors(tables, left)


async def load_floors(tables: Tables, namespaces: Iterable[str]) -> dict[str, Document]:
    """The documents that keep what is known of whole namespaces, as far as there are any."""
    names = sorted(namespaces)
    if not names:
        return {}
    return {found["_id"]: found for found in await tables.floors.find({"_id": {"$in": names}}).to_list(None)}


def _advanced(marks: rules.Marks, reached: Iterable[Mark]) -> rules.Marks:
    for mark in reached:
        if not rules.passed(marks, mark):
            marks = rules.advanced(marks, mark)
    return marks


def _of_namespace(floors: Mapping[str, Document], namespace: str) -> rules.Marks:
    return _read(f"namespace {namespace!r}", floors.get(namespace, {}).get("marks"))


def _read(whose: str, text: Any) -> rules.Marks:
    try:
        return rules.marks_from_text(text)
    except CorruptRecordError as error:
        raise CorruptRecordError(
            f"{whose}: {error}",
            hint="Remove the field marks; what still waits in a journal may then be stored a second time",
        ) from error
