"""The settings of ``db()`` as values: validated once, shared freely.

Times are seconds. Each default is that of the public interface.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, shown

if TYPE_CHECKING:
    from pathlib import Path


_MAX = {"int": 2**62, "float": 10**9}  # in seconds 31 years: drivers multiply and add, and must not overflow
_KIND = {"int": "an int", "float": "seconds"}


class _Checked:
    """Refuses what does not fit the field: another type, and numbers that are not finite or not above zero."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value: Any = getattr(self, field.name)
            what = f"{type(self).__name__}.{field.name}"
            kind = str(field.type)  # as written: annotations are text here
            if kind not in _MAX:
                if value is not None and not isinstance(value, (str, os.PathLike)):
                    raise ConfigurationError(f"{what} must be a path, not {shown(value)}")
            elif isinstance(value, bool) or not isinstance(value, int if kind == "int" else (int, float)):
                raise ConfigurationError(f"{what} must be {_KIND[kind]}, not {shown(value)}")
            elif not 0 < value <= _MAX[kind]:  # NaN fails too
                raise ConfigurationError(f"{what} is {shown(value)}: it must be above 0 and at most {_MAX[kind]:,}")


@dataclass(frozen=True, slots=True)
class PoolOptions(_Checked):
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
class QueueOptions(_Checked):
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
class RetryOptions(_Checked):
    """How often and how long a call is tried again that failed in passing.

    Attributes:
        attempts: Tries in all; 1 is none again.
        deadline: Seconds after which no further try is made, and after which a caller is told that a write, or a read,
            in flight has had no answer.
    """

    attempts: int = 5
    deadline: float = 30.0
