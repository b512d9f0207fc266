"""Files that are still there after a power cut."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def write(number: int, data: bytes) -> None:
    """Write all of `data` to an open file."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]


def sync(number: int) -> None:
    """Wait until what was written to an open file, and its size, are on the disk itself."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  Windows has none

        fcntl.fcntl(number, fcntl.F_FULLFSYNC)  # fsync leaves it in the disk's own memory there
    elif sys.platform == "win32":
        os.fsync(number)
    else:
        os.fdatasync(number)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable; Windows does so by itself and cannot open one."""
    if os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_folder(path: Path) -> None:
    """Make a folder, for this user only, and those above it; durably."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def put_file(path: Path, data: bytes) -> None:
    """Put `data` at `path`, for this user only, durably and in one step."""
    new = path.with_name(path.name + ".new")
    number = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o600)
    try:
        try:
            write(number, data)
            sync(number)
        finally:
            os.close(number)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
