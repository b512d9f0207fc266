"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agentstore.drivers.sql.schema import ID, LONG_TEXT, OPTIONS

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create sessions, messages, state and its floors."""
    op.create_table(
        "agentstore_sessions",
        sa.Column("session_id", ID, nullable=False),
        sa.Column("user_id", ID),
        sa.Column("agent", ID),
        sa.Column("title", LONG_TEXT),
        sa.Column("metadata", LONG_TEXT),
        sa.Column("created_at", sa.BigInteger),
        sa.Column("updated_at", sa.BigInteger),
        sa.Column("message_count", sa.BigInteger),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("parent_id", ID),
        sa.PrimaryKeyConstraint("session_id", name="agentstore_sessions_pk"),
        **OPTIONS,
    )
    op.create_index("agentstore_sessions_by_time", "agentstore_sessions", ["updated_at", "session_id"])
    op.create_index("agentstore_sessions_by_user", "agentstore_sessions", ["user_id", "updated_at"])
    op.create_table(
        "agentstore_messages",
        sa.Column("session_id", ID, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", ID, nullable=False),
        sa.Column("id_key", sa.BigInteger, nullable=False),
        sa.Column("role", ID, nullable=False),
        sa.Column("content", LONG_TEXT, nullable=False),
        sa.Column("tool_calls", LONG_TEXT),
        sa.Column("tool_call_id", LONG_TEXT),
        sa.Column("name", LONG_TEXT),
        sa.Column("metadata", LONG_TEXT),
        sa.Column("run_id", ID),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("session_id", "seq", name="agentstore_messages_pk"),
        **OPTIONS,
    )
    op.create_index("agentstore_messages_by_id", "agentstore_messages", ["id_key"])
    op.create_table(
        "agentstore_state",
        sa.Column("namespace", ID, nullable=False),
        sa.Column("key", ID, nullable=False),
        sa.Column("value", LONG_TEXT, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("namespace", "key", name="agentstore_state_pk"),
        **OPTIONS,
    )
    op.create_table(
        "agentstore_state_floors",
        sa.Column("namespace", ID, nullable=False),
        sa.Column("floor", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace", name="agentstore_state_floors_pk"),
        **OPTIONS,
    )
