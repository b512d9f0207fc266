"""Which namespaces there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .wire import Wire

_ROOM = 1000  # names that may wait until the least of them are picked


async def namespaces(wire: Wire, after: str | None, limit: int) -> list[str]:
    """The least of those that a search through all keys of the servers shows.

    Nothing lists them: so writers, who on a cluster would need a round trip more, pay nothing for what is seldom asked.
    """
    found: set[str] = set()

    def take(keys: list[bytes]) -> None:
        names = (wire.keys.namespace_of(key.decode()) for key in keys)
        found.update(name for name in names if name is not None and (after is None or name > after))
        if len(found) > limit + _ROOM:
            found.difference_update(sorted(found)[limit:])

    await wire.search(wire.keys.any_names, take)
    return sorted(found)[:limit]
