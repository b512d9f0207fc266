"""Every error that agentstore raises on purpose.

AgentstoreError
├── ConfigurationError       an argument, URL or environment is wrong: nothing was tried
├── UnavailableError         the backend cannot be reached or used now
│   └── PoolTimeoutError     no connection came free within PoolOptions.timeout
├── ConflictError            expected_seq, if_version or an existing session says otherwise
├── AccessDeniedError        the session belongs to another user_id
├── InvalidInputError        a value cannot be stored as it is (also a ValueError)
│   └── MessageTooLargeError more than 8 MiB
├── CorruptRecordError       what is stored cannot be read
├── QueueFullError           the write queue stayed full for QueueOptions.timeout
├── ClosedError              the Database was closed
├── SchemaError              the store was written by a newer version
└── SessionNotFoundError     no such session, where one is needed

Where a driver raised first, its own exception is the ``__cause__``.
"""

from __future__ import annotations

_LONGEST_INT = 64  # bits; Python refuses to print more than 4,300 digits


def shown(value: object) -> str:
    """`value` for a message: a number as it is, else its type, for it may be long, secret or unprintable."""
    if isinstance(value, float) or (isinstance(value, int) and value.bit_length() <= _LONGEST_INT):
        return repr(value)
    if isinstance(value, int):
        return f"an int of {value.bit_length():,} bits"
    return "None" if value is None else f"a {type(value).__name__}"


class AgentstoreError(Exception):
    """Base of all errors of this package.

    Args:
        message: What went wrong, naming the argument or server. Never holds a password.
        hint: What to do about it, where there is something to do.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.hint}" if self.hint else message


class ConfigurationError(AgentstoreError):
    """An argument, a URL or the environment is wrong; nothing was tried."""


class UnavailableError(AgentstoreError):
    """The backend cannot be reached or used now.

    Its flags tell whoever would try again what may come of it:

    Args:
        message: As all errors.
        hint: The same.
        passing: It may be over in a moment, so another attempt is worth making. Not so where the call has waited for
            its chance already (for a lock, a free connection, an answer that the server gave up itself), or where
            somebody has to act first (the disk is full).
        answered: The backend is there and said so itself (it is read-only now, say): other calls may fare better.
        unsent: For certain nothing of the call has reached the backend, as no connection could be made: any call may
            be repeated, also one that must not happen twice.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        passing: bool = True,
        answered: bool = False,
        unsent: bool = False,
    ) -> None:
        super().__init__(message, hint=hint)
        self.passing = passing
        self.answered = answered
        self.unsent = unsent


class PoolTimeoutError(UnavailableError):
    """No connection came free within ``PoolOptions.timeout``: the caller has stood in line, and is not `passing`."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint, passing=False, unsent=True)


class ConflictError(AgentstoreError):
    """``expected_seq`` or ``if_version`` does not hold, or what would be created is there with other content."""


class AccessDeniedError(AgentstoreError):
    """The session belongs to another ``user_id``."""


class InvalidInputError(AgentstoreError, ValueError):
    """A value cannot be stored and come back equal; nothing was stored."""


class MessageTooLargeError(InvalidInputError):
    """A message or a state value is over 8 MiB; nothing was stored."""


class CorruptRecordError(AgentstoreError):
    """What is stored cannot be read."""


class QueueFullError(AgentstoreError):
    """The write queue stayed full for ``QueueOptions.timeout``; the write was not accepted."""


class ClosedError(AgentstoreError):
    """The Database was closed."""

    def __init__(self, message: str = "this store was closed", *, hint: str = "Make a new one with db(...)") -> None:
        super().__init__(message, hint=hint)


class SchemaError(AgentstoreError):
    """The store was written by a newer version of agentstore."""


class SessionNotFoundError(AgentstoreError):
    """No such session, or it has expired."""
