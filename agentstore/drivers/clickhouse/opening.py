"""Making the tables, and telling whether they are of our time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore.errors import CorruptRecordError, SchemaError

from .schema import TABLES, VERSION

if TYPE_CHECKING:
    from .link import Link


async def version(link: Link) -> int:
    """The version of the schema that is there; 0 for none, or an unfinished one."""
    if (await link.select("EXISTS TABLE agentstore_version"))[0][0] != 1:
        return 0
    found: int = (await link.select("SELECT max(version) FROM agentstore_version"))[0][0]
    return found


async def prepare(link: Link) -> None:
    """Make what is missing. Several processes may do so at once.

    Raises:
        SchemaError: A newer agentstore made the tables.
    """
    found = await version(link)
    if found > VERSION:
        raise SchemaError(
            f"the tables have version {found}, and this agentstore knows {VERSION}", hint="Upgrade agentstore"
        )
    if found < VERSION:
        for statement in TABLES:
            await _create(link, statement)
        await link.insert("agentstore_version", "version", [(VERSION,)])


async def _create(link: Link, statement: str) -> None:
    try:
        await link.select(statement)
    except CorruptRecordError:  # old servers let the later of two that create at once fail; now it is there
        await link.select(statement)
