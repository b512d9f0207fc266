"""What a state store does, with `agentstore.rules` deciding, on the logs of namespaces."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.errors import AgentstoreError
from agentstore.protocol import DeleteKeys, SetItems
from agentstore.records import StateItem, utcnow

from .failures import translated
from .items import NamespaceLogs, Rewrite

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentstore.protocol import GetItems, Outcome, Scan, StateOp

    from .folder import Folder
    from .items import KnownNamespace

_log = logging.getLogger(__name__)

_MOST = 2**63 - 1


class State:
    """The blocking form of `protocol.StateStore`, whose methods it has."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._logs = NamespaceLogs(folder, "state")

    # --- reading ---

    def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        connection = self._folder.reading()

        def answer(op: GetItems) -> dict[str, StateItem]:
            found = self._logs.answer(
                connection, op.namespace, lambda conn, known: self._logs.with_keys(conn, known, op.keys)
            )
            now = utcnow()
            return {key: found[key] for key in op.keys if key in found and rules.is_live(found[key].expires_at, now)}

        return rules.each(batch, answer)

    def scan(self, scan: Scan) -> list[StateItem]:
        conditions = ["ref = ?", "key >= ?", "(expires_at IS NULL OR expires_at > ?)"]
        values: list[Any] = [scan.prefix, codec.to_micros(utcnow())]
        end = rules.prefix_end(scan.prefix)
        if end is not None:
            conditions.append("key < ?")
            values.append(end)
        if scan.after is not None:
            conditions.append("key < ?" if scan.reverse else "key > ?")
            values.append(scan.after)
        values.append(-1 if scan.limit is None else min(scan.limit, _MOST))
        statement = (
            f"SELECT key, start, length, version FROM items WHERE {' AND '.join(conditions)} "  # noqa: S608  constants
            f"ORDER BY key {'DESC' if scan.reverse else 'ASC'} LIMIT ?"
        )

        def ask(connection: sqlite3.Connection, known: KnownNamespace) -> list[StateItem]:
            return self._logs.items(known, connection.execute(statement, (known.ref, *values)).fetchall())

        return self._logs.answer(self._folder.reading(), scan.namespace, ask)

    def namespaces(self, after: str | None, limit: int) -> list[str]:
        condition, values = ("", ()) if after is None else ("id > ? AND ", (after,))
        rows = self._folder.reading().execute(
            f"SELECT id FROM namespaces AS n WHERE {condition}EXISTS (SELECT 1 FROM items WHERE ref = n.ref)"  # noqa: S608  constants
            " ORDER BY id LIMIT ?",
            (*values, min(limit, _MOST)),
        )
        return [name for (name,) in rows]

    # --- writing ---

    def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        with self._folder.writing() as connection:
            known: dict[str, KnownNamespace] = {}
            failed: dict[str, AgentstoreError] = {}
            plan = rules.StatePlan(items={}, floors={})
            blind = all(isinstance(op, (SetItems, DeleteKeys)) for op in batch)
            keys: dict[str, list[str]] = {op.namespace: [] for op in batch}
            for namespace, key in rules.named_keys(batch):
                keys[namespace].append(key)
            for namespace, named in keys.items():
                try:
                    known[namespace] = self._fill(connection, plan, namespace, named, blind=blind)
                except AgentstoreError as error:
                    failed[namespace] = error
            outcomes = plan.apply([op for op in batch if op.namespace not in failed], utcnow())
            self._keep(connection, plan, known)
        answers = iter(outcomes)
        return [failed[op.namespace] if op.namespace in failed else next(answers) for op in batch]

    def purge(self) -> int:
        with self._folder.writing() as connection:
            now = codec.to_micros(utcnow())
            plan = rules.StatePlan(items={}, floors={})
            known: dict[str, KnownNamespace] = {}
            failed: list[AgentstoreError] = []
            for (namespace,) in connection.execute(
                "SELECT DISTINCT id FROM items JOIN namespaces USING (ref) WHERE expires_at <= ?", (now,)
            ).fetchall():
                try:
                    here = self._fill(connection, plan, namespace, ())
                except AgentstoreError as error:  # one log that cannot be read must not keep the others
                    failed.append(error)
                    continue
                known[namespace] = here
                for key, version in connection.execute(
                    "SELECT key, version FROM items WHERE ref = ? AND expires_at <= ?", (here.ref, now)
                ):
                    plan.items[namespace, key] = StateItem(key, None, version)
            expired = list(plan.items)
            for name in expired:
                plan.remove(*name)
            self._keep(connection, plan, known)
            if failed:
                raise failed[0]
            return len(expired)

    def _fill(
        self,
        connection: sqlite3.Connection,
        plan: rules.StatePlan,
        namespace: str,
        keys: Sequence[str],
        *,
        blind: bool = False,
    ) -> KnownNamespace:
        """Tell the plan what is there; without values, if it is `blind`."""
        look = self._logs.versions if blind else self._logs.with_keys

        def ask(connection: sqlite3.Connection, known: KnownNamespace) -> tuple[KnownNamespace, dict[str, StateItem]]:
            return known, look(connection, known, keys)

        known, found = self._logs.answer_locked(connection, namespace, ask)
        plan.floors[namespace], plan.marks[namespace] = known.floor, known.marks
        plan.items.update({(namespace, key): found.get(key) for key in keys})
        return known

    def _keep(self, connection: sqlite3.Connection, plan: rules.StatePlan, known: dict[str, KnownNamespace]) -> None:
        """Write down what the plan came to."""
        items: dict[str, list[StateItem]] = {}
        dropped: dict[str, list[str]] = {}
        for namespace, key in sorted(plan.changed):
            item = plan.items[namespace, key]
            if item is None:
                dropped.setdefault(namespace, []).append(key)
            else:
                items.setdefault(namespace, []).append(item)
        rewrites = [
            Rewrite(known[name], items.get(name, ()), dropped.get(name, ()), plan.floors[name], plan.marks[name])
            for name in sorted(items.keys() | dropped.keys())
        ]
        self._logs.store(connection, rewrites)
        for rewrite in rewrites:
            if rewrite.known.is_garbage:
                self._compact(connection, rewrite.known)

    def _compact(self, connection: sqlite3.Connection, known: KnownNamespace) -> None:
        # What the caller asked for is stored: it must not hear of an error, or it would increment twice.
        try:
            with translated(known.path):
                self._logs.compact(connection, known)
        except AgentstoreError as error:
            _log.warning("%s keeps its old versions until the next write: %s", known.path, error)
