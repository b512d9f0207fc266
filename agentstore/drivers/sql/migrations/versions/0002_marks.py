"""Marks: how far the write-behind queues have come in a session and in a namespace."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from agentstore.drivers.sql.schema import LONG_TEXT

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add a column to sessions and to the floors of the state.

    Where each change of a table commits by itself, on MySQL, whoever was cut off between has added the first.
    """
    for table in ("agentstore_sessions", "agentstore_state_floors"):
        columns = op.get_bind().execute(sa.select(sa.text("*")).select_from(sa.table(table)).limit(0)).keys()
        if "marks" not in columns:
            op.add_column(table, sa.Column("marks", LONG_TEXT))
