"""Of a group of writes from many callers a bad one fails alone, also where the backend raises for all of them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from agentstore import rules
from agentstore.concurrency import answer_despite
from agentstore.errors import ClosedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentstore.protocol import Append, Outcome, StateOp

Op = TypeVar("Op", bound="Append | StateOp")
Out = TypeVar("Out")

UNREACHED = (UnavailableError, ClosedError)
"""Errors that are not to be blamed on an operation: the whole group may be tried again as it is."""


async def outcomes(
    run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out]]]], ops: Sequence[Op]
) -> Sequence[Outcome[Out] | Exception]:
    """An outcome for each operation, whatever is raised: one that upsets a whole batch is found by halving it."""
    try:
        return await run(ops) if ops else []
    except UNREACHED as error:
        return [error] * len(ops)
    except Exception as error:  # noqa: BLE001  it becomes the outcome of the operation that is to blame
        return await _apart(run, ops, error) if len(ops) > 1 else [error]


async def _apart(
    run: Callable[[Sequence[Op]], Awaitable[Sequence[Outcome[Out]]]], ops: Sequence[Op], error: Exception
) -> Sequence[Outcome[Out] | Exception]:
    """Carry out in parts what failed as a whole; but what must not happen twice keeps the error, for it may have."""
    told: list[Outcome[Out] | Exception] = [error] * len(ops)

    def put(part: Sequence[int], outcomes: Sequence[Outcome[Out] | Exception]) -> Sequence[Outcome[Out] | Exception]:
        for place, outcome in zip(part, outcomes, strict=True):
            told[place] = outcome
        return told

    again = [place for place, op in enumerate(ops) if rules.repeatable(op)]
    half = len(again) // 2 if len(again) == len(ops) else len(again)
    last: object = None
    for part in filter(None, (again[:half], again[half:])):
        if isinstance(last, UNREACHED):  # what comes later must not overtake it
            return put(part, [last] * len(part))
        try:
            put(part, await outcomes(run, [ops[place] for place in part]))
        except asyncio.CancelledError as cancellation:
            answer_despite(cancellation, partial(put, part))
            raise
        last = told[part[-1]]
    return told
