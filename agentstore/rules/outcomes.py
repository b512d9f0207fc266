"""One outcome for each operation of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from agentstore.errors import AgentstoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentstore.protocol import Outcome

In = TypeVar("In")
Out = TypeVar("Out")


def each(batch: Iterable[In], answer: Callable[[In], Out]) -> list[Outcome[Out]]:
    """An outcome for each operation: its answer, or the error that it alone met."""
    outcomes: list[Outcome[Out]] = []
    for op in batch:
        try:
            outcomes.append(answer(op))
        except AgentstoreError as error:
            outcomes.append(error)
    return outcomes
