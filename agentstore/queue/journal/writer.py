"""A journal that is being written: callers hand in records, one thread makes them durable, a group at a time."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
import weakref
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from agentstore.errors import ClosedError

from .format import RECORD_BYTES, Record
from .segments import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import filelock

    from .format import Sealer
    from .segments import Segment

T = TypeVar("T")
Synced: TypeAlias = "Callable[[Sequence[T], OSError | None], None]"
"""Told of each group on the writer's thread: its tokens, and None if it is on the disk, else why it is not."""

_log = logging.getLogger(__name__)

_GROUP_BYTES = 8 * 2**20
_SEGMENT_BYTES = 8 * 2**20
_SHARE = 8  # segments that fill a journal at least; and how full one must be to be given up once it is all settled
_CLOSED = "Nothing can be added to it any more"


class Journal(Generic[T]):
    """Records of one process, durable until they are settled. Made by `Folder.create`; all calls are thread-safe.

    Attributes:
        id: Its name, and its folder's.
        path: Its folder.
    """

    def __init__(
        self,
        path: Path,
        created_at: int,
        lock: filelock.BaseFileLock,
        *,
        sealer: Sealer | None,
        max_bytes: int,
        on_synced: Synced[T],
    ) -> None:
        self.id = path.name
        self.path = path
        self._max_bytes = max_bytes
        self._on_synced = on_synced
        self._segment_bytes = min(_SEGMENT_BYTES, max_bytes // _SHARE)
        self._files = Segments(path, self.id, created_at, sealer, self._segment_bytes)
        self._lock = lock
        self._kept: list[Segment] = []  # what is on the disk, oldest first; its order is that of positions
        self._waiting: deque[tuple[Record, T]] = deque()
        self._early: set[int] = set()  # settled before they were synced
        self._waiting_bytes = self._group_bytes = self._disk_bytes = 0
        self._last = self._handled = -1  # positions: handed in, and either synced or failed
        self._closing = self._closed = self._tidy = self._forked = False
        self._new_locks()
        _journals.add(self)
        self._thread = threading.Thread(target=self._run, name=f"agentstore-journal-{self.id}", daemon=True)
        self._thread.start()

    def _new_locks(self) -> None:
        self._guard = threading.Lock()  # held for a few instructions only, never during I/O
        self._work = threading.Condition(self._guard)
        self._rest = threading.Condition(self._guard)
        self._end = threading.Lock()
        self._idle = False
        self._busy = False

    # --- for callers ---

    def write(self, payload: bytes, token: T, position: int) -> None:
        """Have a record made durable soon; `on_synced` is called with `token` then. No I/O happens here.

        Args:
            payload: What is stored.
            token: Whatever tells the caller which record it was.
            position: Above all positions before.

        Raises:
            ClosedError: `close` was called, or this is a forked child of the journal's process.
        """
        with self._guard:
            if self._closing:
                raise self._refusal()
            if position <= self._last:
                raise ValueError(f"position {position} does not come after {self._last}")
            self._last = position
            self._waiting.append((Record(position, payload), token))
            self._waiting_bytes += RECORD_BYTES + len(payload)
            if self._idle:
                self._work.notify()

    def _refusal(self) -> ClosedError:
        if self._forked:
            return ClosedError("this journal was opened before a fork, and stayed with the parent process")
        return ClosedError(f"journal {self.id} was closed", hint=_CLOSED)

    def settle(self, positions: Iterable[int]) -> None:
        """The backend has these records: they need not be kept. Settling twice does no harm."""
        with self._guard:
            for position in positions:
                place = bisect_left(self._kept, position, key=_last_of)
                if place == len(self._kept):
                    if self._handled < position <= self._last:
                        self._early.add(position)
                    continue
                segment = self._kept[place]
                segment.outstanding.discard(position)
                self._tidy = self._tidy or self._is_done(segment)
            if self._tidy and self._idle:
                self._work.notify()

    @property
    def size(self) -> int:
        """Bytes on the disk, and of what waits to get there."""
        return self._disk_bytes + self._group_bytes + self._waiting_bytes

    def has_room(self, size: int) -> bool:
        """Whether a payload of `size` bytes keeps the journal within its bound."""
        return self.size + RECORD_BYTES + size <= self._max_bytes

    def wait(self, timeout: float | None = None) -> bool:
        """Block until all that was written is synced, or has failed, and is told; False if it took longer."""
        with self._guard:
            return self._rest.wait_for(lambda: self._forked or not (self._waiting or self._busy), timeout)

    def close(self) -> Path | None:
        """Sync what waits, end the thread, let go of the lock; blocking, and fit for the interpreter's exit.

        Returns:
            The folder, if records are left in it that nobody settled; None if all is settled and it was removed, or
            in a forked child.
        """
        with self._end:
            with self._guard:
                self._closing = True
                self._work.notify()
            if self._forked:
                return None
            if not self._closed:
                self._thread.join()
                self._leave()
            return self.path if any(segment.outstanding for segment in self._kept) else None

    def _leave(self) -> None:
        self._closed = True
        _journals.discard(self)
        if not any(segment.outstanding for segment in self._kept):
            self._remove(self._kept)
            remove_folder(self.path, self._lock)
        else:
            self._lock.release()

    # --- the writer's thread ---

    def _run(self) -> None:
        while (work := self._next_work()) is not None:
            group, done = work
            if group:
                self._store(group)
            self._remove(done)
            with self._guard:
                self._busy = False
                self._rest.notify_all()
        self._files.end()

    def _next_work(self) -> tuple[list[tuple[Record, T]], list[Segment]] | None:
        """A group and the segments to remove, as soon as there is either; None at the end."""
        with self._guard:
            while not (self._waiting or self._tidy or self._closing):
                self._idle = True
                self._work.wait()
                self._idle = False
            if not (self._waiting or self._tidy):
                return None
            self._busy, self._tidy = True, False
            return self._group(), [segment for segment in self._kept if self._is_done(segment)]

    def _group(self) -> list[tuple[Record, T]]:
        group: list[tuple[Record, T]] = []
        while self._waiting and (not group or self._group_bytes < _GROUP_BYTES):
            entry = self._waiting.popleft()
            self._group_bytes += RECORD_BYTES + len(entry[0].payload)
            group.append(entry)
        self._waiting_bytes -= self._group_bytes
        return group

    def _is_done(self, segment: Segment) -> bool:
        if segment.outstanding:
            return False
        return segment is not self._files.current or segment.size > self._segment_bytes // _SHARE

    def _store(self, group: list[tuple[Record, T]]) -> None:
        records = [record for record, _ in group]
        error: OSError | None = None
        try:
            segment = self._files.append(records)
        except OSError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001  the callers are told, and the thread lives for the next group
            error = OSError(errno.EIO, f"the journal's writer failed unexpectedly: {failure!r}")
            error.__cause__ = failure
        with self._guard:
            if error is None:
                self._keep(segment, records)
            self._handled = records[-1].position
            self._early.difference_update(record.position for record in records)
            self._group_bytes = 0
        try:
            self._on_synced([token for _, token in group], error)
        except Exception:  # noqa: BLE001  the thread lives for the next group
            _log.exception("journal %s: on_synced failed", self.id)

    def _keep(self, segment: Segment, records: list[Record]) -> None:
        if not self._kept or self._kept[-1] is not segment:
            self._kept.append(segment)
        segment.last = records[-1].position
        segment.outstanding.update(record.position for record in records if record.position not in self._early)
        self._disk_bytes = sum(kept.size for kept in self._kept)
        self._tidy = self._tidy or any(map(self._is_done, self._kept))

    def _remove(self, segments: Iterable[Segment]) -> None:
        """Remove segments without a record that is needed. What cannot be removed stays until the next time."""
        for segment in list(segments):
            with self._guard:
                if segment.outstanding:  # a group came meanwhile
                    continue
            try:
                if segment is self._files.current:
                    self._files.end()
                segment.path.unlink(missing_ok=True)
            except OSError as error:
                _log.error("%s is not needed any more, but cannot be removed: %s", segment.path, error)
                continue
            with self._guard:
                self._kept.remove(segment)
                self._disk_bytes -= segment.size

    # --- forks ---

    def forget(self) -> None:
        """After a fork: everything is the parent's, and its lock must end with it (filelock sees to that)."""
        self._new_locks()
        self._closing = self._forked = True
        self._waiting.clear()
        self._files.forget()


def remove_folder(path: Path, lock: filelock.BaseFileLock) -> None:
    """Remove the folder of a journal without segments, and let go of its lock."""
    lock.release()  # Windows removes no open file; who gets the lock now finds nothing and removes the folder too
    with contextlib.suppress(FileNotFoundError):
        os.unlink(lock.lock_file)  # noqa: PTH108  it may be str or Path
    try:
        path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("%s stays: somebody keeps other files there (%s)", path, error)


def _last_of(segment: Segment) -> int:
    return segment.last


_journals: weakref.WeakSet[Journal[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for journal in list(_journals):
        journal.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
