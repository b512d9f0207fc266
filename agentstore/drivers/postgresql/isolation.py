"""What one operation runs into concerns nobody else in its batch."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

from agentstore import rules
from agentstore.drivers.optimistic import Failures
from agentstore.errors import AgentstoreError, CorruptRecordError
from agentstore.rules.outcomes import UNEXPECTED

from .errors import AGAIN, DATA, RAISED, translated

if TYPE_CHECKING:
    import asyncpg


def failures(connection: asyncpg.Connection, place: str) -> Failures:
    """What a load, or a write in one statement, may raise.

    Args:
        connection: Where it is sent; ended if a statement may still be under way on it.
        place: Which database, for messages; without password.
    """
    return Failures(AGAIN, (CorruptRecordError, *DATA, *UNEXPECTED), RAISED, partial(_ours, connection, place))


def _ours(connection: asyncpg.Connection, place: str, error: BaseException) -> AgentstoreError:
    if isinstance(error, DATA):
        ours: AgentstoreError = CorruptRecordError(
            f"the stored rows do not let this be written: {error}",
            hint="Has something else changed the tables? Restore a backup, or delete the session or key",
        )
    elif isinstance(error, RAISED):
        if isinstance(error, TimeoutError):
            connection.terminate()
        ours = translated(error, place)
    else:
        return _unexpected(error)
    ours.__cause__ = error
    return ours


def _unexpected(error: BaseException) -> AgentstoreError:
    def answer(error: BaseException) -> NoReturn:
        raise error

    outcomes: list[AgentstoreError] = rules.each([error], answer)
    return outcomes[0]
