"""Keeping what is bad about one operation from those who share its batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn, TypeVar

from agentstore import rules
from agentstore.errors import CorruptRecordError, InvalidInputError
from agentstore.rules.outcomes import UNEXPECTED

from .sending import SentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Outcome

In = TypeVar("In")
Out = TypeVar("Out")


async def isolated(
    batch: Sequence[In], run: Callable[[Sequence[In]], Awaitable[list[Outcome[Out]]]]
) -> list[Outcome[Out]]:
    """`run` the batch; if an operation or what is stored stops it, run each by itself.

    All are planned before a block is sent, so nothing was stored; what goes wrong after that concerns all of them.
    """
    try:
        return await run(batch)
    except SentError as sent:
        if len(batch) == 1:
            return rules.each([sent.error], _fail)
        raise
    except (CorruptRecordError, InvalidInputError, *UNEXPECTED) as error:
        if len(batch) == 1:
            return rules.each([error], _fail)
    return [outcome for op in batch for outcome in await isolated([op], run)]


def _fail(error: Exception) -> NoReturn:
    raise error
