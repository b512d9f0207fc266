"""SQLite and ``fork()``: a process must fork while no thread is inside SQLite, and while it has no file open.

A child inherits SQLite's own locks as they are at that moment, and no thread that would ever let go of one; and it
takes the file locks of connections that it inherits for its own, which they are not: whatever it opens then is
unprotected. So whoever uses SQLite does it inside `SQLITE`, and says there how to part from the connections for a fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from time import monotonic
from typing import Protocol

import filelock  # noqa: F401  those inside wait for its locks, so its hook must run after ours: the last one in comes first

from .errors import UnavailableError


class Connected(Protocol):
    """Who holds connections."""

    def part(self) -> None:
        """Close them, from any thread; whoever needs them next connects anew. Nobody uses one meanwhile."""


class Doorway:
    """What threads are inside of while they use SQLite: ``with SQLITE: ...``. Nobody gets in while the process forks.

    Neither entering nor leaving ever waits for anything else. A thread does not enter twice.

    Args:
        patience: Seconds that a fork waits for those who are inside.
    """

    def __init__(self, patience: float = 5.0) -> None:
        self._patience = patience
        self._changed = threading.Condition()
        self._inside: set[int] = set()
        self._connected: weakref.WeakSet[Connected] = weakref.WeakSet()
        self._forking: int | None = None  # the thread that does
        self._is_unfit = self._is_clear = False

    def __enter__(self) -> None:
        with self._changed:
            while self._forking is not None:
                self._changed.wait()
            self._inside.add(threading.get_ident())

    def __exit__(self, *exc: object) -> None:
        with self._changed:
            self._inside.discard(threading.get_ident())
            if self._forking is not None:
                self._changed.notify_all()

    def connecting(self, who: Connected) -> None:
        """Whoever is inside is about to connect, and will have to part before a fork.

        Raises:
            UnavailableError: This process was forked while SQLite was in use all the time.
        """
        if self._is_unfit:
            raise UnavailableError(
                f"this process was forked while its parent was in the middle of using SQLite, for {self._patience:g} s "
                "or more: SQLite's own locks may stay locked here",
                hint="Fork before the first write, or start processes by multiprocessing's 'spawn'",
                passing=False,
            )
        with self._changed:
            self._connected.add(who)

    # --- around a fork, on the thread that forks ---

    def before(self) -> None:
        """Wait until all others have left, but not for ever, and have the connections closed."""
        with self._changed:
            while self._forking is not None:
                self._changed.wait()
            self._forking, self._is_clear = threading.get_ident(), False
            deadline = monotonic() + self._patience
            while self._inside - {self._forking} and (left := deadline - monotonic()) > 0:
                self._changed.wait(left)
            # It may itself be inside, where the garbage collector, say, has called it.
            self._is_clear = not self._inside
            connected = list(self._connected) if self._is_clear else ()
        for one in connected:
            one.part()

    def after_in_parent(self) -> None:
        """Let the others in."""
        with self._changed:
            self._forking = None
            self._changed.notify_all()

    def after_in_child(self) -> None:
        """There is nobody else; and if the parent was not clear of SQLite, nobody may ever get in."""
        is_unfit = self._is_unfit or not self._is_clear
        self.__init__(self._patience)  # type: ignore[misc]
        self._is_unfit = is_unfit


SQLITE = Doorway()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=SQLITE.before, after_in_parent=SQLITE.after_in_parent, after_in_child=SQLITE.after_in_child
    )
