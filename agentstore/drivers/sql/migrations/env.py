"""Run by Alembic: migrates over the connection, and within the transaction, that `upgrade.apply` hands in."""

from __future__ import annotations

from alembic import context

from agentstore.drivers.sql import schema
from agentstore.drivers.sql.upgrade import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
