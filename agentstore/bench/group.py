"""Group commit by hand, as anybody would write it who has read how databases do it."""

from __future__ import annotations

import asyncio
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.records import Message

    from .raw import Raw, Turn


_WORTHY = 16  # turns that are better off in one commit than in two at once: measured on PostgreSQL and MariaDB


class Gatherer:
    """While commits are in flight the next group gathers; a lone caller waits for nobody.

    Args:
        raw: Commits the groups: as many at once as its ``groups`` says, else one. Many who wait are shared evenly
            among the commits that may begin.
    """

    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._width: int = getattr(raw, "groups", 1)
        self._waiting: list[tuple[Turn, asyncio.Future[None]]] = []
        self._in_flight = 0
        self._committing: set[asyncio.Task[None] | None] = set()

    async def append(self, session_id: str, messages: Sequence[Message]) -> None:
        """Store a turn in the next group's commit. A session may have one at a time."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(((session_id, messages), future))
        if len(self._committing) < self._width:
            task = asyncio.create_task(self._commit())  # begins when those who come at this moment are there too
            self._committing.add(task)
        await future

    async def _commit(self) -> None:
        try:
            while self._waiting:
                size = max(_WORTHY, ceil(len(self._waiting) / (self._width - self._in_flight)))
                group, self._waiting = self._waiting[:size], self._waiting[size:]
                await self._carry_out(group)
                await asyncio.sleep(0)  # whoever has just been answered may come again, and join
        finally:
            self._committing -= {asyncio.current_task()}

    async def _carry_out(self, group: list[tuple[Turn, asyncio.Future[None]]]) -> None:
        self._in_flight += 1
        try:
            await self._raw.append_group([turn for turn, _ in group])
        except Exception as error:  # noqa: BLE001  its callers' concern
            for _, future in group:
                if not future.done():
                    future.set_exception(error)
        else:
            for _, future in group:
                if not future.done():
                    future.set_result(None)
        finally:
            self._in_flight -= 1

    async def ended(self) -> None:
        """Wait for what is in flight."""
        if self._committing:
            await asyncio.gather(*filter(None, self._committing), return_exceptions=True)
