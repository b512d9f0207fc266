"""Side by side, and all of it waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """The results; the first error is raised when *all* have ended, so that no write goes on behind its caller."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results
