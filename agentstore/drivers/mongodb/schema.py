"""The collections: their indexes, and the version that says they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo import IndexModel

from agentstore.errors import SchemaError

from .together import together

if TYPE_CHECKING:
    from .client import Document, Tables

VERSION = 1

_SCHEMA = "schema"

SESSIONS = (
    IndexModel([("updated_at", -1), ("session", -1)], name="by_time"),
    IndexModel([("user_id", 1), ("updated_at", -1), ("session", -1)], name="by_user"),
    IndexModel([("expires_at", 1)], name="by_expiry", sparse=True),
    IndexModel([("gone.log", 1)], name="by_gone", sparse=True),
)
MESSAGES = (
    IndexModel([("log", 1), ("seq", 1)], name="by_seq"),
    IndexModel([("log", 1), ("id", 1)], name="by_id"),
)
STATE = (
    IndexModel([("expires_at", 1)], name="by_expiry", sparse=True),
    IndexModel([("remove_at", 1)], name="removal", sparse=True, expireAfterSeconds=0),
)


async def prepare(tables: Tables) -> None:
    """Make the indexes unless they are there. Any number of processes may do so at once.

    Raises:
        SchemaError: A newer version of agentstore has been here.
    """
    version = await found_version(tables)
    if version is not None and version > VERSION:
        raise SchemaError(
            f"the collections were made by a newer agentstore: their schema is version {version}, ours is {VERSION}",
            hint="Upgrade agentstore",
        )
    if version == VERSION:
        return
    await together(
        tables.sessions.create_indexes(list(SESSIONS)),
        tables.messages.create_indexes(list(MESSAGES)),
        tables.state.create_indexes(list(STATE)),
    )
    await tables.meta.update_one({"_id": _SCHEMA}, {"$max": {"version": VERSION}}, upsert=True)


async def found_version(tables: Tables) -> int | None:
    """The version that is there; None where nobody has been."""
    found: Document | None = await tables.meta.find_one({"_id": _SCHEMA})
    return None if found is None else int(found["version"])
