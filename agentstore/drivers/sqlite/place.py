"""Which file a database is, and whether it still is."""

from __future__ import annotations

import os

from agentstore.errors import UnavailableError

MEMORY = ":memory:"


class Place:
    """Where a database lies, and which file was opened there.

    SQLite goes on writing into a file that was deleted, moved or replaced, where nobody will find it.

    Args:
        path: Absolute, or `MEMORY`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._opened: tuple[int, int] | None = None

    @property
    def in_memory(self) -> bool:
        """Whether there is no file."""
        return self.path == MEMORY

    def note(self) -> None:
        """Remember the file that is there now."""
        if not self.in_memory:
            try:
                self._opened = _identity(self.path)
            except OSError as error:
                raise self._error(str(error)) from error

    def check(self) -> None:
        """Let pass if the file is the one that was noted.

        Raises:
            UnavailableError: It is gone, or another.
        """
        lost = self.lost()
        if lost is not None:
            raise lost

    def lost(self) -> UnavailableError | None:
        """The error if the file is not the one that was noted."""
        if self._opened is None:
            return None
        try:
            found = _identity(self.path)
        except OSError as error:
            lost = self._error(str(error))
            lost.__cause__ = error
            return lost
        return None if found == self._opened else self._error("another file is there")

    def _error(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.path}: the file was moved, deleted or replaced under the open database ({why}); nothing is written",
            hint="Put the file back; or close this Database and make a new one with db(...), which opens what is there",
            passing=False,
        )


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116  pathlib costs more than the call itself
    return status.st_dev, status.st_ino
