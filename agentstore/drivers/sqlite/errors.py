"""What SQLite's errors mean here: the one map."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from agentstore.drivers.meaning import Meaning
from agentstore.errors import (
    AgentstoreError,
    ConflictError,
    CorruptRecordError,
    InvalidInputError,
    MessageTooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


_LOCKED = Meaning(
    UnavailableError,
    "others kept it locked for too long",
    "Let no program hold a transaction on it open, or raise PoolOptions.statement_timeout",
    passing=False,
)
_PERMISSION = Meaning(
    UnavailableError,
    "it cannot be opened for writing",
    "The file and its folder (for the -wal and -shm files) must exist and be writable",
    passing=False,
)
_DISK = Meaning(UnavailableError, "the disk failed", "Look at the system's log", passing=False)
_MEMORY = Meaning(UnavailableError, "there is not enough memory", passing=False)
_BROKEN = Meaning(
    CorruptRecordError,
    "it is damaged, or no SQLite database at all",
    "Check the path; restore a backup, or try the .recover command of the sqlite3 shell",
)
_TABLES = Meaning(
    CorruptRecordError,
    "its tables are not those that agentstore made",
    "Has something else altered them? Restore a backup, or use another file",
)
_BUG = Meaning(AgentstoreError, "SQLite was used wrongly", "This is a bug: please report it")

BY_CODE: Mapping[int, Meaning] = {
    sqlite3.SQLITE_ERROR: _TABLES,
    sqlite3.SQLITE_INTERNAL: _BUG,
    sqlite3.SQLITE_PERM: _PERMISSION,
    sqlite3.SQLITE_ABORT: Meaning(UnavailableError, "the statement was aborted", passing=False),
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_NOMEM: _MEMORY,
    sqlite3.SQLITE_READONLY: _PERMISSION,
    sqlite3.SQLITE_INTERRUPT: Meaning(UnavailableError, "the statement was interrupted", passing=False),
    sqlite3.SQLITE_IOERR: _DISK,
    sqlite3.SQLITE_CORRUPT: _BROKEN,
    sqlite3.SQLITE_NOTFOUND: _BUG,
    sqlite3.SQLITE_FULL: Meaning(UnavailableError, "the disk is full", "Make room, then try again", passing=False),
    sqlite3.SQLITE_CANTOPEN: _PERMISSION,
    sqlite3.SQLITE_PROTOCOL: _LOCKED,
    sqlite3.SQLITE_EMPTY: _BUG,
    sqlite3.SQLITE_SCHEMA: Meaning(UnavailableError, "its tables were changed meanwhile", "Try again", answered=True),
    sqlite3.SQLITE_TOOBIG: Meaning(MessageTooLargeError, "a text is longer than SQLite takes"),
    sqlite3.SQLITE_CONSTRAINT: Meaning(ConflictError, "what would be stored is there, or lacks something"),
    sqlite3.SQLITE_MISMATCH: _BUG,
    sqlite3.SQLITE_MISUSE: _BUG,
    sqlite3.SQLITE_NOLFS: Meaning(UnavailableError, "the file system takes no file of this size", passing=False),
    sqlite3.SQLITE_AUTH: _BUG,
    sqlite3.SQLITE_FORMAT: _BROKEN,
    sqlite3.SQLITE_RANGE: _BUG,
    sqlite3.SQLITE_NOTADB: _BROKEN,
}
"""By primary result code (https://sqlite.org/rescode.html), the low byte of ``sqlite_errorcode``."""

BY_TYPE: Mapping[type[Exception], Meaning] = {
    sqlite3.OperationalError: Meaning(CorruptRecordError, "a stored text is no UTF-8"),
    sqlite3.DataError: Meaning(MessageTooLargeError, "a text is longer than SQLite takes"),
    OverflowError: Meaning(InvalidInputError, "a number is beyond 64 bits"),
    UnicodeEncodeError: Meaning(InvalidInputError, "a text holds a lone surrogate"),
    sqlite3.Error: _BUG,
    sqlite3.Warning: _BUG,
}
"""For what Python's module raises by itself, without a code: the first that fits."""

RAISED = tuple(BY_TYPE)
"""What a function on a connection may raise that `translated` takes."""


def translated(error: Exception, place: str) -> AgentstoreError:
    """The error of ours for one of `RAISED`; raise it ``from`` that one.

    Args:
        error: What a call on the connection raised.
        place: Which database, for the message.
    """
    code = getattr(error, "sqlite_errorcode", None)
    meaning = (
        next(meaning for kind, meaning in BY_TYPE.items() if isinstance(error, kind))
        if code is None
        else BY_CODE.get(code & 0xFF, _BUG)
    )
    return meaning.told(place, error)
