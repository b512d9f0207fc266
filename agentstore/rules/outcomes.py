"""One outcome for each operation of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agentstore.errors import AgentstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentstore.protocol import Outcome

In = TypeVar("In")
Out = TypeVar("Out")

UNEXPECTED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What plain functions raise where they are wrong. What a driver, the system or asyncio raises is none of these."""


def each(batch: Iterable[In], answer: Callable[[In], Out]) -> list[Outcome[Out]]:
    """An outcome for each operation: its answer, or the error that it alone met.

    An error of `UNEXPECTED` is a bug, but of this operation alone: the callers whose operations happen to share the
    batch must not pay for it. So `answer` may change what the others see only when nothing can go wrong any more.
    """
    outcomes: list[Outcome[Out]] = []
    for op in batch:
        try:
            outcomes.append(answer(op))
        except AgentstoreError as error:
            outcomes.append(error)
        except UNEXPECTED as error:
            outcomes.append(_bug(error))
    return outcomes


def _bug(error: Exception) -> AgentstoreError:
    ours = AgentstoreError(
        f"the operation failed unexpectedly ({type(error).__name__}: {error}); nothing of it was stored",
        hint="This is a bug: please report it, with what was passed in",
    )
    ours.__cause__ = error
    return ours
