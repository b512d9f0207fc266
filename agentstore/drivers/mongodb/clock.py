"""The server's clock, which all writers share, without a round trip for each look at it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bson.errors import InvalidBSON

from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    from .client import Tables

_AGE = 60.0  # seconds for which one look serves
_GRAIN = 0.002  # seconds: the server tells milliseconds

_HINT = "Is it MongoDB, and its clock set?"


class Clock:
    """The server's time, asked for once a minute and counted on from there by this machine's steady clock.

    As exact as the server's milliseconds and half a round trip. While it agrees with what the server says it is left
    alone, so that it runs evenly; this machine setting its own clock does not matter.
    """

    def __init__(self) -> None:
        self._looked = -_AGE
        self._base: tuple[float, datetime] | None = None  # what the steady clock and the server said at one moment

    async def now(self, tables: Tables) -> datetime:
        """The server's time."""
        steady = time.monotonic()
        if self._base is None or steady - self._looked >= _AGE:
            self._looked = steady
            await self._look(tables)
        return self._reading()

    def _reading(self) -> datetime:
        assert self._base is not None  # noqa: S101  `now` has looked
        steady, server = self._base
        return server + timedelta(seconds=time.monotonic() - steady)

    async def _look(self, tables: Tables) -> None:
        asked = time.monotonic()
        server = await server_time(tables)
        took = time.monotonic() - asked
        base = (asked + took / 2, server)
        if self._base is None or abs(self._base[1] - server + timedelta(seconds=base[0] - self._base[0])) > timedelta(
            seconds=took + _GRAIN
        ):
            self._base = base


async def server_time(tables: Tables) -> datetime:
    """What the primary's clock says.

    Raises:
        UnavailableError: Nothing that is a time.
    """
    try:
        hello = await tables.client.admin.command("hello")
    except InvalidBSON as error:
        raise UnavailableError(
            f"the server's answer to hello cannot be read: {error}", hint=_HINT, answered=True
        ) from error
    moment = hello.get("localTime")
    if not isinstance(moment, datetime):
        raise UnavailableError(
            f"the server tells no time: in its hello localTime is {moment!r}", hint=_HINT, answered=True
        )
    return moment.replace(tzinfo=UTC)
