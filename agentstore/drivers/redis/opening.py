"""What is looked at when a store is opened: the layout's version, and whether the server would throw keys away."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentstore.errors import AgentstoreError, CorruptRecordError, SchemaError
from agentstore.protocol import LaggingError

from .client import Command

if TYPE_CHECKING:
    from .wire import Wire

LAYOUT = 1
"""The version of what the keys hold. A store of a newer one is not touched."""

_log = logging.getLogger("agentstore")


async def prepare(wire: Wire) -> None:
    """Note the layout's version if nobody has; several may do so at once.

    Raises:
        SchemaError: The store was written by a newer agentstore.
        CorruptRecordError: The version is no number.
    """
    key = wire.keys.schema
    _, found = await wire.ask(Command(key, ("SET", key, LAYOUT, "NX")), Command(key, ("GET", key)))
    _check(wire, found)
    await _warn_of_eviction(wire)


async def look(wire: Wire) -> None:
    """`prepare` a replica, to which the version must have come.

    Raises:
        LaggingError: It has not.
        SchemaError, CorruptRecordError: As `prepare`.
    """
    key = wire.keys.schema
    (found,) = await wire.ask(Command(key, ("GET", key)))
    if found is None:
        raise LaggingError(f"{wire.place.text} has not what its master has")
    _check(wire, found)


def _check(wire: Wire, found: bytes) -> None:
    key = wire.keys.schema
    if not found.isdigit():
        raise CorruptRecordError(f"{wire.place.text}: the key {key} holds {found!r}, which is no version")
    if int(found) > LAYOUT:
        raise SchemaError(
            f"{wire.place.text} has layout {int(found)}; this agentstore knows {LAYOUT}",
            hint="Upgrade agentstore, or choose another prefix",
        )


async def _warn_of_eviction(wire: Wire) -> None:
    for address, answer in await wire.everywhere("INFO", "memory"):
        if isinstance(answer, AgentstoreError):  # who may not ask cannot know; `examine` says so
            continue
        policy = facts(answer).get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            _log.warning(
                "Redis at %s may throw conversations away when its memory is full (maxmemory-policy %s):"
                " set it to noeviction",
                address,
                policy,
            )


def facts(info: bytes) -> dict[str, str]:
    """What ``INFO`` says, by name."""
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}
