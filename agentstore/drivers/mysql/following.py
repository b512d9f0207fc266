"""How far a primary has come, and whether a replica has come as far: by the transactions' global ids (GTID).

MariaDB numbers the transactions of a domain, so the last one of each tells of all before it; MySQL lists them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agentstore.protocol import LaggingError

from .literals import literal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .transaction import Wire

T = TypeVar("T")

_LOGGED = "SELECT @@GLOBAL.gtid_binlog_pos"
_EXECUTED = "SELECT IF(@@GLOBAL.gtid_mode = 'ON' AND @@GLOBAL.log_bin, @@GLOBAL.gtid_executed, '')"
_APPLIED = "SELECT @@GLOBAL.gtid_slave_pos"


async def position(wire: Wire) -> str | None:
    """Behind all that this server has committed; None where it writes no binary log, or one without global ids."""
    (((found,),),) = await wire.send(_LOGGED if wire.connection.is_mariadb else _EXECUTED)
    return found or None


class Following:
    """What a replica does before it answers.

    Args:
        required: Tells which position it must have reached.
    """

    def __init__(self, required: Callable[[], str | None]) -> None:
        self._required = required

    async def read(self, wire: Wire, work: Callable[[Wire], Awaitable[T]]) -> T:
        """What `work` gives, if the server behind the connection is as far.

        Raises:
            LaggingError: It is not.
        """
        required, connection = self._required(), wire.connection
        if required is not None and connection.reached != required:
            if not await _has_reached(wire, required):
                raise LaggingError(f"{wire.place} is not as far as its primary was, or is no replica of it")
            connection.reached = required
        return await work(wire)


async def _has_reached(wire: Wire, required: str) -> bool:
    if not wire.connection.is_mariadb:
        (((found,),),) = await wire.send(f"SELECT GTID_SUBSET({literal(required)}, @@GLOBAL.gtid_executed)")
        return bool(int(found))
    (((applied,),),) = await wire.send(_APPLIED)
    there = _by_domain(applied)
    return all(
        # another server's number says nothing: after a failover there may be two transactions of one
        domain in there and server == there[domain][0] and number <= there[domain][1]
        for domain, (server, number) in _by_domain(required).items()
    )


def _by_domain(position: str) -> dict[str, tuple[str, int]]:
    """Server and number of the last transaction in each domain of a MariaDB's position (``0-1-270,5-2-13``)."""
    parts = (part.split("-") for part in position.split(",") if part)
    return {domain: (server, int(number)) for domain, server, number in parts}
