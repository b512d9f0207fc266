"""The tables, and what is in which column.

`agentstore_log` holds the truth, so that one INSERT of one block stores an append with its head, or nothing. Its rows
are of four kinds. A *head* says what a session is; each writer has one, and the one with the greatest version counts.
A *message* stands under its seq. An *id* leads from a message's id to its seq. A *mark* says how far a queue has come
in a session. All are replaced by rows of the same key and a higher version, when the server merges parts; until then
readers choose. Heads stand together, at the beginning, for listings.

Marks are rows of their own, not a column of heads: so no other writer has to keep them, queues of two processes do not
overwrite one another's, and who has no queue pays nothing. Their version is the position in the queue. In the state
they are tombstones of keys that nobody else can have, beside the keys of their namespace.

Messages up to a session's `floor_seq` are gone, whatever rows are left of them: so a clear or a delete is one row too.
"""

from __future__ import annotations

VERSION = 1

HEAD, MESSAGE, ID, MARK = 0, 1, 2, 3
"""The kinds of rows in the log."""

MARKED = "\0"
"""What the state's key of a mark begins with, before the queue's id. No other key has a NUL."""

NEVER = 2**63 - 1
"""Stands for no expiry."""

KEY = "kind, session_id, num, id"
"""What makes a row of the log another one. `num` is a head's slot, a message's seq, an id's hash."""

INDEX_COLUMNS = f"{KEY}, seq, version, deleted, floor_seq"
"""What there is to read of an id, and of a head whose rest is known."""

HEAD_COLUMNS = f"{INDEX_COLUMNS}, metadata, created_at, user_id, agent, updated_at, expires_at, more"
"""What there is to read of a head."""

MESSAGE_COLUMNS = "session_id, deleted, id, seq, role, content, tool_calls, metadata, run_id, created_at, more"
"""What there is to read of a message."""

COLUMNS = (
    f"{KEY}, seq, version, deleted, role, content, tool_calls, metadata, run_id, created_at,"
    " user_id, agent, updated_at, expires_at, floor_seq, more"
)
"""All columns of the log. Each is files in every part, which is most of what a small INSERT costs on old servers: so
what is seldom there (a title, a parent, a tool's call id, a name) stands as JSON in `more`."""

STATE_COLUMNS = "namespace, key, value, version, expires_at, deleted"
"""All columns of the state."""

_LOG = """
CREATE TABLE IF NOT EXISTS agentstore_log (
    kind Int8,
    session_id String,
    num Int64,
    id String,
    seq Int64,
    version UInt64,
    deleted UInt8,
    role String,
    content String,
    tool_calls String,
    metadata String,
    run_id String,
    created_at Int64,
    user_id String,
    agent String,
    updated_at Int64,
    expires_at Int64,
    floor_seq Int64,
    more String
) ENGINE = ReplacingMergeTree(version) ORDER BY (kind, session_id, num, id) SETTINGS index_granularity = 1024
"""

_STATE = """
CREATE TABLE IF NOT EXISTS agentstore_state (
    namespace String,
    key String,
    value String,
    version Int64,
    expires_at Int64,
    deleted UInt8
) ENGINE = ReplacingMergeTree(version) ORDER BY (namespace, key) SETTINGS index_granularity = 1024
"""

_VERSION = """
CREATE TABLE IF NOT EXISTS agentstore_version (version Int64) ENGINE = ReplacingMergeTree ORDER BY version
"""

TABLES = (_LOG, _STATE, _VERSION)
NAMES = ("agentstore_log", "agentstore_state", "agentstore_version")
