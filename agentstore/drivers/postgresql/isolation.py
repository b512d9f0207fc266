"""What one operation runs into concerns nobody else in its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

from agentstore import rules
from agentstore.errors import CorruptRecordError
from agentstore.rules.outcomes import UNEXPECTED

from .errors import DATA

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome

In = TypeVar("In")
Out = TypeVar("Out")


async def isolated(
    batch: Sequence[In], run: Callable[[Sequence[In]], Awaitable[list[Outcome[Out]]]]
) -> list[Outcome[Out]]:
    """`run` the batch; if what is stored stops it, each half by itself, and so on: then only those fail that touch it.

    A batch that fails must have done nothing.
    """
    try:
        return await run(batch)
    except (CorruptRecordError, *DATA, *UNEXPECTED) as error:
        if len(batch) == 1:
            alone: list[Exception] = [error]
            return rules.each(alone, _refused)
    half = len(batch) // 2
    return [*await isolated(batch[:half], run), *await isolated(batch[half:], run)]


def _refused(error: Exception) -> NoReturn:
    if isinstance(error, DATA):
        raise CorruptRecordError(
            f"the stored rows do not let this be written: {error}",
            hint="Has something else changed the tables? Restore a backup, or delete the session or key",
        ) from error
    raise error
