"""The settings of ``db()`` as values: validated once, shared freely.

Times are seconds. Each default is that of the public interface.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


class _Positive:
    """Refuses numbers that are not above zero, whatever the field."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            if isinstance(value, (int, float)) and not value > 0:
                raise ConfigurationError(f"{type(self).__name__}.{field.name} is {value!r}: it must be above 0")


@dataclass(frozen=True, slots=True)
class PoolOptions(_Positive):
    """How many connections a process holds, and how long it waits for them.

    Attributes:
        size: Connections of each pool; there is one pool per URL and event loop.
        timeout: Seconds a caller waits for a free connection before `PoolTimeoutError`.
        connect_timeout: Seconds to open one connection.
        statement_timeout: Seconds one statement may take, waiting for locks included.
        max_lifetime: Seconds after which a connection is replaced.
    """

    size: int = 10
    timeout: float = 10.0
    connect_timeout: float = 5.0
    statement_timeout: float = 30.0
    max_lifetime: float = 1800.0


@dataclass(frozen=True, slots=True)
class QueueOptions(_Positive):
    """The bounds of the write queue.

    Attributes:
        max_messages: Writes that may wait at once; a caller beyond them waits too.
        max_bytes: The same, in bytes of text.
        timeout: Seconds a caller waits for room before `QueueFullError`.
        flush_interval: Seconds within which a ``memory`` write reaches the backend.
        close_timeout: Seconds a close waits for what is pending.
        journal_dir: Where journals live; None is the user's data folder.
        journal_max_bytes: The most that a journal holds.
    """

    max_messages: int = 10_000
    max_bytes: int = 64 * 2**20
    timeout: float = 30.0
    flush_interval: float = 0.05
    close_timeout: float = 10.0
    journal_dir: str | Path | None = None
    journal_max_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class RetryOptions(_Positive):
    """How often and how long a write that failed in passing is tried again.

    Attributes:
        attempts: Tries in all.
        deadline: Seconds after which no further try is made.
    """

    attempts: int = 5
    deadline: float = 30.0
