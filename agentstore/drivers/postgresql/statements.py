"""The statements, for the tables of one schema: it is always named, for a pooler's search_path may be anybody's.

- **Conditional writes.** ``INSERT ... ON CONFLICT DO UPDATE ... WHERE`` is the one statement that looks at a row as it
  is when it is locked, not as the statement's snapshot has it. So a session is written if its version still is what
  was loaded; what belongs to it is written for the sessions that held, in the same statement, so in one transaction.
- **Order of locks.** Rows are locked in the order of ids (``COLLATE "C"``, whatever the database sorts by), floors
  before items: no two statements can wait for each other. A ``count(*)`` over a WITH query makes another wait for it.
- **Plans.** Tables are probed by index through ``= ANY(array)`` or a LATERAL query with a LIMIT or OFFSET, which
  PostgreSQL does not merge into a join: so a plan that was made on small tables serves large ones.
"""

from __future__ import annotations

from agentstore.drivers.sql import rows

_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_LIVE = f"(expires_at IS NULL OR expires_at > {_NOW})"
_VERSION = "concat_ws(' ', {0}.xmin, {0}.last_seq, {0}.updated_at)"
"""What changes whenever a row does: the transaction that wrote it, for a rewrite moves neither seq nor time; and those,
for a server that has lost its last transactions gives their numbers again.
"""

_HEAD_TYPES = (*("text",) * 5, *("bigint",) * 5, "text", "text")
_MESSAGE_TYPES = ("text", "bigint", "text", "text", "text", "bigint", *("text",) * 5, "bigint")
_SPOT_TYPES = ("bigint", *("text",) * 6)
_SESSION_NAMES, _MESSAGE_NAMES = rows.SESSION.split(", "), rows.MESSAGE.split(", ")

# ruff: noqa: S608  what is put together here are constants and a quoted schema


def _arrays(first: int, types: tuple[str, ...]) -> str:
    return ", ".join(f"${number}::{kind}[]" for number, kind in enumerate(types, first))


def _nulls(types: tuple[str, ...]) -> str:
    return ", ".join(f"NULL::{kind}" for kind in types)


class LogStatements:
    """What `conversations.Log` sends.

    Attributes:
        load: ``(session ids, id keys)``: a row with the time, then sessions with versions, then messages; each row has
            columns for all.
        newest: Arrays of (place, session id, above, below, limit): (place, owner) with a message, or without if there
            is none; nothing for a session that is not there or has expired. Limits count from the new end.
        oldest: The same from the old end.
        newest_of_one, oldest_of_one: ``(session id, above, below, limit, user id)``: what that user may see of it.
        heads: ``(session ids)``: the time and the session.
        owner: ``(session id)``: owner, last seq, version and marks of a live session.
        count: ``(session id)``: its messages.
        expired: ``(session id, limit)``: those behind this one: id, last seq, version.
        add: Arrays of `rows.NEW_MESSAGE`.
        rewrite: ``(session id, updated_at, title, metadata)``, arrays of `rows.SPOT`: how many sessions were written.
    """

    def __init__(self, schema: str) -> None:
        self._sessions, self._messages = f"{schema}.agentstore_sessions", f"{schema}.agentstore_messages"
        sessions, messages = self._sessions, self._messages
        self.load = (
            f"SELECT clock_timestamp(), NULL, {_nulls(_HEAD_TYPES)}, {_nulls(_MESSAGE_TYPES[2:])}"
            f" UNION ALL SELECT NULL, {_VERSION.format('s')}, {rows.HEAD}, {_nulls(_MESSAGE_TYPES[2:])}"
            f" FROM {sessions} AS s WHERE session_id = ANY($1::text[])"
            f" UNION ALL SELECT NULL, NULL, session_id, {_nulls(_HEAD_TYPES[1:])}, {rows.MESSAGE}"
            f" FROM {messages} WHERE id_key = ANY($2::bigint[])"
        )
        self.newest, self.oldest = self._between("DESC"), self._between("ASC")
        self.newest_of_one, self.oldest_of_one = self._of_one("DESC"), self._of_one("ASC")
        self.heads = f"SELECT clock_timestamp(), {rows.SESSION} FROM {sessions} WHERE session_id = ANY($1::text[])"
        self.owner = (
            f"SELECT user_id, last_seq, {_VERSION.format('s')}, marks FROM {sessions} AS s"
            f" WHERE session_id = $1 AND updated_at IS NOT NULL AND {_LIVE}"
        )
        self.count = f"SELECT count(*) FROM {messages} WHERE session_id = $1"
        self.expired = (
            f"SELECT session_id, last_seq, {_VERSION.format('s')} FROM {sessions} AS s"
            f" WHERE session_id > $1 AND expires_at <= {_NOW} ORDER BY session_id LIMIT $2"
        )
        self.add = f"INSERT INTO {messages} ({rows.NEW_MESSAGE}) SELECT * FROM unnest({_arrays(1, _MESSAGE_TYPES)})"
        texts = ", ".join(f"{name} = n.{name}" for name in rows.TEXTS.split(", "))
        self.rewrite = (
            f"WITH held AS (UPDATE {sessions} SET title = $3, metadata = $4"
            " WHERE session_id = $1 AND updated_at = $2 RETURNING session_id),"
            f" rewritten AS (UPDATE {messages} AS m SET {texts}"
            f" FROM unnest({_arrays(5, _SPOT_TYPES)}) AS n({rows.SPOT})"
            " WHERE m.session_id = (SELECT session_id FROM held) AND m.seq = n.seq AND m.id = n.id)"
            " SELECT count(*) FROM held"
        )
        self._writes = {
            (cut, added, guessed): self._write(cut, added, guessed)
            for cut in (False, True)
            for added, guessed in ((False, False), (True, False), (True, True))
        }

    def write(self, *, cut: bool, added: bool, guessed: bool) -> str:
        """The conditional write of sessions; gives the time, and the ids of those that were written with new versions.

        Takes arrays of `rows.HEAD` (an empty one for a column without values), versions as a JSON object by session
        id; with `cut` the ids of the sessions that lose messages, and the seq from which on; with `added` arrays of
        `rows.NEW_MESSAGE`, likewise; with `guessed`, which only goes with `added`, the time that was assumed and by
        how much it may be wrong, in microseconds: a session is written only if it has none of the messages, and none
        is if it is another time.
        """
        return self._writes[cut, added, guessed]

    def listing(self, conditions: str, limit: int) -> str:
        """A listing under further conditions, its limit being parameter number `limit`."""
        return (
            f"SELECT {rows.SESSION} FROM {self._sessions} WHERE updated_at IS NOT NULL AND {_LIVE}{conditions}"
            f" ORDER BY updated_at DESC, session_id DESC LIMIT ${limit}"
        )

    def _between(self, order: str) -> str:
        return (
            f"SELECT n.place, s.user_id, {', '.join(f'm.{name}' for name in _MESSAGE_NAMES)}"
            " FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])"
            " AS n(place, session_id, above, below, most)"
            f" CROSS JOIN LATERAL (SELECT user_id FROM {self._sessions}"
            f" WHERE session_id = n.session_id AND updated_at IS NOT NULL AND {_LIVE} OFFSET 0) AS s"
            f" LEFT JOIN LATERAL (SELECT {rows.MESSAGE} FROM {self._messages}"
            " WHERE session_id = n.session_id AND seq > n.above AND seq < n.below"
            f" ORDER BY seq {order} LIMIT n.most) AS m ON true"
        )

    def _of_one(self, order: str) -> str:
        return (
            f"SELECT m.* FROM {self._sessions} AS s CROSS JOIN LATERAL (SELECT {rows.MESSAGE} FROM {self._messages}"
            f" WHERE session_id = $1 AND seq > $2 AND seq < $3 ORDER BY seq {order} LIMIT $4) AS m"
            f" WHERE s.session_id = $1 AND s.updated_at IS NOT NULL AND {_LIVE}"
            " AND ($5::text IS NULL OR s.user_id IS NULL OR s.user_id = $5)"
        )

    def _write(self, cut: bool, added: bool, guessed: bool) -> str:  # noqa: FBT001  as `write`
        expected = len(_HEAD_TYPES) + 1
        changes = ", ".join(f"{name} = excluded.{name}" for name in _SESSION_NAMES[1:])
        new = f"unnest({_arrays(expected + 1 + 2 * cut, _MESSAGE_TYPES)}) AS m({rows.NEW_MESSAGE})"
        parts, fresh = [], ""
        if guessed:
            planned = expected + 1 + 2 * cut + len(_MESSAGE_TYPES)
            fresh = (
                f" WHERE abs({_NOW} - ${planned}::bigint) <= ${planned + 1}::bigint"
                " AND h.session_id != ALL(ARRAY(SELECT session_id FROM known))"
            )
            parts.append(
                f"known AS (SELECT m.session_id FROM {new} CROSS JOIN LATERAL"
                f" (SELECT session_id, id FROM {self._messages} WHERE id_key = m.id_key OFFSET 0) AS k"
                " WHERE k.session_id = m.session_id AND k.id = m.id)"
            )
        parts.append(
            f"held AS (INSERT INTO {self._sessions} AS s ({rows.HEAD})"
            f" SELECT * FROM unnest({_arrays(1, _HEAD_TYPES)}) AS h({rows.HEAD}){fresh}"
            ' ORDER BY h.session_id COLLATE "C"'
            f" ON CONFLICT (session_id) DO UPDATE SET {changes}, marks = coalesce(excluded.marks, s.marks)"
            f" WHERE {_VERSION.format('s')} = ${expected}::jsonb ->> excluded.session_id"
            f" RETURNING session_id, {_VERSION.format('s')} AS version)"
        )
        following = expected + 1
        if cut:
            parts.append(
                f"removed AS (DELETE FROM {self._messages} WHERE session_id ="
                f" ANY(ARRAY(SELECT session_id FROM held WHERE session_id = ANY(${following}::text[])))"
                f" AND seq >= ${following + 1}::bigint)"
            )
            following += 2
        if added:
            parts.append(
                f"added AS (INSERT INTO {self._messages} ({rows.NEW_MESSAGE})"
                f" SELECT m.* FROM {new} WHERE m.session_id = ANY(ARRAY(SELECT session_id FROM held)))"
            )
        return f"WITH {', '.join(parts)} SELECT {_NOW}, session_id, version FROM held"


class StateStatements:
    """What `state.State` sends.

    Attributes:
        get: Arrays of (namespace, key): namespace and item of those that are there and live.
        load: Arrays of (namespace, key, whether the value is needed) and namespaces: a row with the time, then items,
            then floors with marks as their value; each row has columns for all.
        replace: ``(namespace, key, value, version, expires_at, former version)``: the one key of a batch that adds and
            removes none; gives a row if the former version held.
        write: Arrays of (namespace, floor, marks); former floors, former marks, as JSON objects; arrays of (namespace,
            key, value, version, expires_at, former version): gives the namespaces in which something had changed, and
            nothing was written. No value means to remove the key, no former version that it must not be there, no
            marks that others may have changed them.
        expired: ``(namespace, key, limit)``: those behind this one: namespace, key, version.
        namespaces, namespaces_after: ``(limit)`` and ``(limit, namespace)``: those that have items, in order.
    """

    def __init__(self, schema: str) -> None:
        items, floors = f"{schema}.agentstore_state", f"{schema}.agentstore_state_floors"
        self._items = items
        found = f" CROSS JOIN LATERAL (SELECT * FROM {items} WHERE namespace = n.namespace AND key = n.key"
        self.get = (
            "SELECT s.namespace, s.key, s.value, s.version, s.expires_at"
            f" FROM unnest($1::text[], $2::text[]) AS n(namespace, key){found} AND {_LIVE} OFFSET 0) AS s"
        )
        self.load = (
            "SELECT clock_timestamp(), NULL::text, NULL::text, NULL::text, NULL::bigint, NULL::bigint"
            " UNION ALL SELECT NULL, s.namespace, s.key, CASE WHEN n.whole THEN s.value ELSE 'null' END, s.version,"
            f" CASE WHEN n.whole OR s.expires_at BETWEEN {rows.FIRST_MICRO} AND {rows.LAST_MICRO} THEN s.expires_at END"
            f" FROM unnest($1::text[], $2::text[], $3::boolean[]) AS n(namespace, key, whole){found} OFFSET 0) AS s"
            f" UNION ALL SELECT NULL, namespace, NULL, marks, floor, NULL FROM {floors}"
            " WHERE namespace = ANY($4::text[])"
        )
        self.replace = (
            f"UPDATE {items} SET value = $3, version = $4, expires_at = $5"
            " WHERE namespace = $1 AND key = $2 AND version = $6 RETURNING version"
        )
        self.write = f"""\
WITH gate AS (
    INSERT INTO {floors} AS f (namespace, floor, marks)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS g(namespace, floor, marks)
    ORDER BY g.namespace COLLATE "C"
    ON CONFLICT (namespace) DO UPDATE SET floor = excluded.floor, marks = coalesce(excluded.marks, f.marks)
    WHERE f.floor = ($4::jsonb ->> excluded.namespace)::bigint
    AND (excluded.marks IS NULL OR f.marks IS NOT DISTINCT FROM $5::jsonb ->> excluded.namespace)
    RETURNING namespace
), named AS (
    SELECT * FROM unnest($6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[])
    AS n(namespace, key, value, version, expires_at, former)
), held AS (
    SELECT s.* FROM (
        SELECT namespace, key FROM named WHERE (SELECT count(*) FROM gate) >= 0
        ORDER BY namespace COLLATE "C", key COLLATE "C"
    ) AS n
    CROSS JOIN LATERAL (
        SELECT namespace, key, version, ctid AS place FROM {items} WHERE namespace = n.namespace AND key = n.key
        LIMIT 1 FOR UPDATE
    ) AS s
), lost AS (
    SELECT g.namespace FROM unnest($1::text[]) AS g(namespace) WHERE g.namespace NOT IN (SELECT namespace FROM gate)
    UNION
    SELECT n.namespace FROM named AS n LEFT JOIN held AS h USING (namespace, key)
    WHERE h.version IS DISTINCT FROM n.former
), holding AS (
    SELECT * FROM named WHERE namespace NOT IN (SELECT namespace FROM lost)
), created AS (
    INSERT INTO {items} (namespace, key, value, version, expires_at)
    SELECT namespace, key, value, version, expires_at FROM holding WHERE value IS NOT NULL AND former IS NULL
), replaced AS (
    INSERT INTO {items} (namespace, key, value, version, expires_at)
    SELECT namespace, key, value, version, expires_at FROM holding WHERE value IS NOT NULL AND former IS NOT NULL
    ON CONFLICT (namespace, key) DO UPDATE
    SET value = excluded.value, version = excluded.version, expires_at = excluded.expires_at
), removed AS (
    DELETE FROM {items} WHERE ctid = ANY(ARRAY(
        SELECT place FROM held JOIN holding USING (namespace, key) WHERE holding.value IS NULL
    ))
)
SELECT namespace FROM lost"""
        self.expired = (
            f"SELECT namespace, key, version FROM {items} WHERE (namespace, key) > ($1, $2) AND expires_at <= {_NOW}"
            " ORDER BY namespace, key LIMIT $3"
        )
        self.namespaces, self.namespaces_after = self._namespaces("true"), self._namespaces("namespace > $2")

    def _namespaces(self, condition: str) -> str:
        """The first under a condition, then the next after each: the loose index scan that PostgreSQL lacks."""
        return (
            f"WITH RECURSIVE found AS ((SELECT namespace, 1::bigint AS place FROM {self._items} WHERE {condition}"
            " ORDER BY namespace LIMIT 1)"
            " UNION ALL SELECT n.namespace, place + 1 FROM found"
            f" CROSS JOIN LATERAL (SELECT namespace FROM {self._items}"
            " WHERE namespace > found.namespace ORDER BY namespace LIMIT 1) AS n WHERE place < $1)"
            " SELECT namespace FROM found WHERE place <= $1 ORDER BY place"
        )

    def scan(self, conditions: str, order: str, limit: int) -> str:
        """A scan of the live items of namespace ``$1`` under further conditions; parameter `limit` may be NULL."""
        return (
            f"SELECT key, value, version, expires_at FROM {self._items} WHERE namespace = $1 AND {_LIVE}{conditions}"
            f" ORDER BY key {order} LIMIT ${limit}"
        )
