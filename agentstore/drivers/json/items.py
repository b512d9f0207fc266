"""The logs of namespaces, and what the index keeps of each key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.records import StateItem

from . import lines
from .files import Edit
from .logs import Known, LogKind, StaleError, stale_if_malformed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from .files import Committed, Span

_ANY = "SELECT key, start, length, version FROM items WHERE ref = ?"
_VERSIONS = "SELECT key, version, expires_at FROM items WHERE ref = ?"
_KEYS_AT_ONCE = 500
_SET = "INSERT OR REPLACE INTO items (ref, key, start, length, version, expires_at) VALUES (?, ?, ?, ?, ?, ?)"
_SPARED = 2**20  # bytes up to which a log is never compacted
_GARBAGE = 4  # times its live bytes that a log may have


@dataclass(slots=True)
class KnownNamespace(Known):
    """What the index knows of a namespace.

    Attributes:
        floor: The highest version that a removed key had.
        live: Bytes of the lines of its keys.
    """

    floor: int = 0
    live: int = 0

    @property
    def is_garbage(self) -> bool:
        """Whether its log is worth writing anew."""
        return self.size > _SPARED and self.size > _GARBAGE * self.live


@dataclass(slots=True)
class Rewrite:
    """What is to be written for one namespace.

    Attributes:
        known: What is there.
        items: Keys to be set.
        dropped: Keys to be removed.
        floor: Afterwards.
        marks: Afterwards.
    """

    known: KnownNamespace
    items: Sequence[StateItem]
    dropped: Sequence[str]
    floor: int
    marks: rules.Marks
    edit: Edit = field(init=False)
    spans: list[Span] = field(init=False)

    def __post_init__(self) -> None:
        size = self.known.size
        group = lines.Group(size)
        if not size:
            group.add({"namespace": self.known.id})
        if self.dropped or self.floor != self.known.floor:
            group.add({"delete": list(self.dropped), "floor": self.floor})
        self.spans = group.add_all(map(lines.from_item, self.items))
        marks = lines.from_marks(self.marks) if self.marks is not self.known.marks else {}
        self.edit = Edit(self.known.path, group.committed(**marks), size, replaces=False)


class NamespaceLogs(LogKind[KnownNamespace]):
    """A log for each namespace."""

    all_stamps = "SELECT id, inode, size FROM namespaces"

    def look(self, connection: sqlite3.Connection, name: str) -> KnownNamespace:
        row = connection.execute(
            "SELECT ref, inode, size, marks, floor, live FROM namespaces WHERE id = ?", (name,)
        ).fetchone()
        if row is None:
            return KnownNamespace(name, self.path(name))
        marks = rules.marks_from_text(row[3])
        return KnownNamespace(name, self.path(name), row[0], (row[1], row[2]), marks, row[4], row[5])

    def name_of(self, line: dict[str, Any]) -> str:
        name: str = line["namespace"]
        return name

    def blank(self, connection: sqlite3.Connection, name: str) -> KnownNamespace:
        known = KnownNamespace(name, self.path(name), self.look(connection, name).ref)
        self._number(connection, known)
        connection.execute("DELETE FROM items WHERE ref = ?", (known.ref,))
        return known

    def replay(self, connection: sqlite3.Connection, known: KnownNamespace, group: Committed) -> None:
        for span, line in group.lines:
            match line:
                case {"set": _}:
                    self._set(connection, known, lines.to_item(line), span)
                case {"delete": keys, "floor": floor}:
                    for key in keys:
                        self._drop(connection, known, key)
                    known.floor = floor
                case {"namespace": _}:
                    known.floor = line.get("floor", 0)
                case _:
                    raise ValueError(f"a line with {', '.join(line)}")

    def save(self, connection: sqlite3.Connection, known: KnownNamespace) -> None:
        connection.execute(
            "UPDATE namespaces SET inode = ?, size = ?, floor = ?, live = ?, marks = ? WHERE ref = ?",
            (*(known.stamp or ("", 0)), known.floor, known.live, rules.marks_to_text(known.marks), known.ref),
        )

    def remove(self, connection: sqlite3.Connection, ref: int) -> None:
        connection.execute("DELETE FROM items WHERE ref = ?", (ref,))
        connection.execute("DELETE FROM namespaces WHERE ref = ?", (ref,))

    # --- items ---

    def with_keys(
        self, connection: sqlite3.Connection, known: KnownNamespace, keys: Sequence[str]
    ) -> dict[str, StateItem]:
        """Those of the keys that are there, expired or not."""
        rows: list[Any] = []
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[first : first + _KEYS_AT_ONCE]
            rows += connection.execute(
                f"{_ANY} AND key IN ({', '.join('?' * len(some))})",
                (known.ref, *some),
            )
        return {item.key: item for item in self.items(known, rows)}

    def versions(
        self, connection: sqlite3.Connection, known: KnownNamespace, keys: Sequence[str]
    ) -> dict[str, StateItem]:
        """The same without their values, which are not read: what setting and deleting need."""
        rows: list[Any] = []
        for first in range(0, len(keys), _KEYS_AT_ONCE):
            some = keys[first : first + _KEYS_AT_ONCE]
            rows += connection.execute(f"{_VERSIONS} AND key IN ({', '.join('?' * len(some))})", (known.ref, *some))
        return {
            key: StateItem(key, None, version, None if expires_at is None else codec.from_micros(expires_at))
            for key, version, expires_at in rows
        }

    def items(self, known: KnownNamespace, rows: Sequence[tuple[str, int, int, int]]) -> list[StateItem]:
        """The items of (key, start, length, version) rows."""
        found = self.read(known, [(start, length) for _, start, length, _ in rows])
        with stale_if_malformed():
            items = [lines.to_item(data) for data in found]
        if [(item.key, item.version) for item in items] != [(key, version) for key, _, _, version in rows]:
            raise StaleError
        return items

    # --- writing ---

    def store(self, connection: sqlite3.Connection, rewrites: Sequence[Rewrite]) -> None:
        """Write rewrites of distinct namespaces, all or none; the caller holds the lock."""

        def record() -> None:
            for rewrite in rewrites:
                self._record(connection, rewrite)

        self.folder.store(connection, [rewrite.edit for rewrite in rewrites], record)

    def compact(self, connection: sqlite3.Connection, known: KnownNamespace) -> None:
        """Write a log anew with what is live; versions, floor and marks stay."""
        rows = connection.execute(f"{_ANY} ORDER BY start", (known.ref,)).fetchall()
        group = lines.Group(0)
        group.add({"namespace": known.id, "floor": known.floor})
        spans = group.add_all(map(lines.from_item, self.items(known, rows)))
        edit = Edit(known.path, group.committed(**lines.from_marks(known.marks)), known.size, replaces=True)

        def record() -> None:
            connection.executemany(
                "UPDATE items SET start = ?, length = ? WHERE ref = ? AND key = ?",
                [(*span, known.ref, row[0]) for span, row in zip(spans, rows, strict=True)],
            )
            known.stamp, known.live = edit.stamp, sum(length for _, length in spans)
            self.save(connection, known)

        self.folder.store(connection, [edit], record)

    def _record(self, connection: sqlite3.Connection, rewrite: Rewrite) -> None:
        known = rewrite.known
        known.stamp, known.floor, known.marks = rewrite.edit.stamp, rewrite.floor, rewrite.marks
        self._number(connection, known)
        for key in rewrite.dropped:
            self._drop(connection, known, key)
        for item, span in zip(rewrite.items, rewrite.spans, strict=True):
            self._set(connection, known, item, span)
        self.save(connection, known)

    def _set(self, connection: sqlite3.Connection, known: KnownNamespace, item: StateItem, span: Span) -> None:
        known.live -= self._length(connection, known, item.key)
        expires_at = None if item.expires_at is None else codec.to_micros(item.expires_at)
        connection.execute(_SET, (known.ref, item.key, *span, item.version, expires_at))
        known.live += span[1]

    def _drop(self, connection: sqlite3.Connection, known: KnownNamespace, key: str) -> None:
        known.live -= self._length(connection, known, key)
        connection.execute("DELETE FROM items WHERE ref = ? AND key = ?", (known.ref, key))

    @staticmethod
    def _length(connection: sqlite3.Connection, known: KnownNamespace, key: str) -> int:
        """Bytes of the key's line; 0 if there is none."""
        row = connection.execute("SELECT length FROM items WHERE ref = ? AND key = ?", (known.ref, key)).fetchone()
        return 0 if row is None else int(row[0])

    def _number(self, connection: sqlite3.Connection, known: KnownNamespace) -> None:
        if known.ref is None:
            added = connection.execute(
                "INSERT INTO namespaces (id, inode, size, floor, live) VALUES (?, '', 0, 0, 0)", (known.id,)
            )
            known.ref = added.lastrowid
