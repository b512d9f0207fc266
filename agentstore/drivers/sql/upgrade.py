"""Brings a database to the schema of this release.

Drivers compare `VERSION` first, with SQL of their own: Alembic is imported only where it differs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore.errors import SchemaError

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION = "0002"
"""The newest migration (a test holds the two together)."""

VERSION_TABLE = "agentstore_version"
"""Where Alembic keeps the version: one row with ``version_num``."""


def apply(connection: Connection) -> None:
    """Run the missing migrations in the transaction that `connection` is in; the caller commits.

    The caller holds a lock by then, so that whoever loses a race finds the work done and does nothing.

    Raises:
        SchemaError: A newer release wrote this database.
    """
    from alembic import command  # noqa: PLC0415  takes a third of a second, and nearly every start does without
    from alembic.config import Config  # noqa: PLC0415
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", f"{__package__}:migrations")
    ours = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    found = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_heads()
    if unknown := sorted(set(found) - ours):
        raise SchemaError(
            f"the database has schema version {', '.join(unknown)}; this release knows versions up to {VERSION}: "
            "a newer version of agentstore wrote it",
            hint="Upgrade agentstore (pip install --upgrade agentstore)",
        )
    command.upgrade(config, "head")
