"""What the operating system, SQLite and filelock raise, and what it means to a caller."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import filelock

from agentstore.errors import AgentstoreError, ClosedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Failure:
    """A line of the map.

    Attributes:
        kind: The exception's class.
        hint: What to do.
        codes: Its ``errno`` or SQLite error code is one of these; none at all means any.
        error: What the caller gets.
        passing: Whether another attempt may succeed.
    """

    kind: type[Exception]
    hint: str
    codes: frozenset[int] = frozenset()
    error: type[AgentstoreError] = UnavailableError
    passing: bool = False

    def told(self, where: object, error: Exception) -> AgentstoreError:
        """The error of ours; raise it ``from`` the other."""
        message = f"the JSON files of {where} cannot be used: {error}"
        if self.error is UnavailableError:
            return UnavailableError(message, hint=self.hint, passing=self.passing, answered=True)
        return self.error(message, hint=self.hint)

    def covers(self, error: Exception) -> bool:
        """Whether this line is about `error`."""
        return isinstance(error, self.kind) and (not self.codes or code_of(error) in self.codes)


FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

FAILURES = (
    Failure(filelock.Timeout, "Another process holds the folder's .lock; try again, or end that process"),
    Failure(OSError, "Free some space, then try again; nothing of this write was stored", FULL),
    Failure(OSError, "Allow more open files (ulimit -n)", frozenset({errno.EMFILE, errno.ENFILE})),
    Failure(PermissionError, "Make the folder and its files writable for this user, or choose another"),
    Failure(OSError, "The file system is read-only: choose another folder", frozenset({errno.EROFS})),
    Failure(FileExistsError, "A file stands where the folder should be: choose another path"),
    Failure(NotADirectoryError, "A file stands where the folder should be: choose another path"),
    Failure(OSError, "Check the folder and its disk, then try again"),
    Failure(
        sqlite3.DatabaseError,
        "index.db was damaged and is made anew at the next call: try again",
        DAMAGED,
        passing=True,
    ),
    Failure(sqlite3.DatabaseError, "Free some space, then try again", frozenset({sqlite3.SQLITE_FULL})),
    Failure(
        sqlite3.OperationalError,
        "Another program holds index.db: end it, then try again",
        frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}),
    ),
    Failure(sqlite3.ProgrammingError, "The store was closed meanwhile: make a new one with db(...)", error=ClosedError),
    Failure(sqlite3.Error, "Try again; if it stays, delete index.db: it is made anew from the logs"),
)
"""The first line that covers an exception counts."""


def code_of(error: Exception) -> int | None:
    """The ``errno`` of an OSError, the primary result code of an SQLite error."""
    if isinstance(error, sqlite3.Error):
        code: int | None = getattr(error, "sqlite_errorcode", None)
        return None if code is None else code & 0xFF
    return error.errno if isinstance(error, OSError) else None


@contextmanager
def translated(where: object, *kinds: type[Exception]) -> Iterator[None]:
    """Raise the tree's errors in place of the system's.

    Args:
        where: The folder or file.
        kinds: The exceptions to look for; all that the map knows unless given.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if kinds and not isinstance(error, kinds):
            raise
        failure = next(line for line in FAILURES if line.covers(error))
        raise failure.told(where, error) from error
