"""The tables, for every SQL backend.

- A primary key starts with the session (or namespace), so its rows lie together and tables can be distributed by it.
- No index carries more than two ids: four-byte characters would break PostgreSQL's limit of 2,704 bytes.
- Times are whole microseconds since 1970, texts are clean (`agentstore.codec`).
- A session row whose ``updated_at`` is NULL is a tombstone: it keeps the last seq and the marks of a deleted session.
- Marks (`rules.marks`) only grow: NULL in what is to be written means to keep those that are there.

**Message ids** must be found within their session without a second unique index over long texts, which would halve the
appends. So each row carries `rows.id_key`, 64 bits that grow with time for UUIDv7 ids: inserts meet at the right edge
of a small index. Uniqueness is `rules.plan_appends`' work, within the transaction that writes.

Measured on SQLite 3.40, synchronous=FULL, 64 sessions x (200 B + 800 B) in a transaction with a session row of one
index: turns/s when there are 64 sessions and when there are 20,000, and loads/s of a session's last 50 messages.
Medians of three; the first line comes from an earlier run than the others.

| layout of the messages | 64 | 20,000 | last 50 |
|---|---|---|---|
| WITHOUT ROWID, unique (session_id, id) | 13,500 | 9,200 | 13,400 |
| rowid, unique (session_id, seq), unique (session_id, id) | 22,100 | 15,500 | 12,100 |
| rowid, unique (session_id, seq), id_key: **chosen** | 31,800 | 21,500 | 11,300 |

So it appends 1.4 times as fast as the next, and loads 7% slower than it, 16% slower than WITHOUT ROWID.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, MetaData, String, Table, Text
from sqlalchemy.dialects.mysql import LONGTEXT, VARBINARY

ID = (
    String(255)
    .with_variant(String(255, collation="C"), "postgresql")
    .with_variant(VARBINARY(1020), "mysql", "mariadb")  # their collations pad spaces or differ between the two
)
"""An exact id. Migrations use it too: never change it, add another."""

LONG_TEXT = Text().with_variant(LONGTEXT(), "mysql", "mariadb")
"""Text of up to 8 MiB and its escapes. Migrations use it too: never change it, add another."""

OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",  # known to MySQL and MariaDB alike
    "mysql_row_format": "DYNAMIC",  # an index may hold a whole id
}
"""Of every table, whatever a server's defaults are. Migrations use it too: never change it, add another."""

metadata = MetaData(naming_convention={"pk": "%(table_name)s_pk"})

sessions = Table(
    "agentstore_sessions",
    metadata,
    Column("session_id", ID, primary_key=True),
    Column("user_id", ID),
    Column("agent", ID),
    Column("title", LONG_TEXT),
    Column("metadata", LONG_TEXT),
    Column("created_at", BigInteger),
    Column("updated_at", BigInteger),
    Column("message_count", BigInteger),
    Column("last_seq", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("parent_id", ID),
    Column("marks", LONG_TEXT),
    Index("agentstore_sessions_by_time", "updated_at", "session_id"),
    Index("agentstore_sessions_by_user", "user_id", "updated_at"),
    **OPTIONS,
)

messages = Table(
    "agentstore_messages",
    metadata,
    Column("session_id", ID, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", ID, nullable=False),
    Column("id_key", BigInteger, nullable=False),
    Column("role", ID, nullable=False),
    Column("content", LONG_TEXT, nullable=False),
    Column("tool_calls", LONG_TEXT),
    Column("tool_call_id", LONG_TEXT),
    Column("name", LONG_TEXT),
    Column("metadata", LONG_TEXT),
    Column("run_id", ID),
    Column("created_at", BigInteger, nullable=False),
    Index("agentstore_messages_by_id", "id_key"),
    **OPTIONS,
)

state = Table(
    "agentstore_state",
    metadata,
    Column("namespace", ID, primary_key=True),
    Column("key", ID, primary_key=True),
    Column("value", LONG_TEXT, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    **OPTIONS,
)

state_floors = Table(
    "agentstore_state_floors",
    metadata,
    Column("namespace", ID, primary_key=True),
    Column("floor", BigInteger, nullable=False),
    Column("marks", LONG_TEXT),
    **OPTIONS,
)
