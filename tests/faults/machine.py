"""The writer's own machine: a disk that is full, a clock that somebody sets back."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.base import ServerError

from .deaths import store
from .effort import Effort
from .kit import Field, one_round
from .report import Report

_FULL = re.compile(r"disk is full|No space left", re.IGNORECASE)
_STEPS = ("-3600", "+60", "-172800", "-1", "+0")
"""Seconds that the clock differs from the right time, one after the other."""


class _Disk:
    """A file system in memory, of a size that can be changed; mounting takes root."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path, self.megabytes = path, megabytes
        self._run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "agentstore-faults", str(path))

    def grow(self, megabytes: int) -> None:
        self.megabytes += megabytes
        self._run("mount", "-o", f"remount,size={self.megabytes}m", str(self.path))

    def close(self) -> None:
        self._run("umount", str(self.path))

    @staticmethod
    def _run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerError(f"{' '.join(command)} failed (it takes root): {done.stderr}")


@contextmanager
def _disk(path: Path, megabytes: int) -> Iterator[_Disk]:
    path.mkdir()
    disk = _Disk(path, megabytes)
    try:
        yield disk
    finally:
        disk.close()


def disk_full(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """The disk under the store fills up; callers are told so; there is room again, and they go on."""
    with _disk(folder / "disk", 4) as disk, store(kind, disk.path) as url:
        journal = str(disk.path / "journal")
        with Field(url, folder, durability=durability, padding=2000, reads=True, journal_dir=journal) as field:
            writer = field.start()
            for _ in range(effort.rounds):
                writer.until_each("refused", 3)
                disk.grow(2)
                writer.until_each()
                yield one_round()
            disk.grow(64)
            field.stop()
            report = field.audit(allowed=("AgentstoreError",))
            for call in field.calls():
                if call.outcome == "error" and not _FULL.search(call.text):
                    report.blame(
                        "other", f"{call.what} does not say that the disk is full: {call.error[0]}: {call.text}"
                    )
            yield report


def clock_set_back(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """The writer's clock jumps, mostly back, while it writes."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        raise ServerError("libfaketime is not installed: run `make servers`")
    clock = folder / "clock"
    environment = {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }
    with store(kind, folder) as url, Field(url, folder, durability=durability, reads=True) as field:
        clock.write_text("+0\n")
        writer = field.start(environment=environment)
        for number in range(effort.rounds):
            writer.until_each(count=3)
            following = folder / "next"
            following.write_text(_STEPS[number % len(_STEPS)] + "\n")
            following.replace(clock)
            yield one_round()
        writer.until_each(count=3)
        field.stop()
        report = field.audit()
        if not field.went_back():
            report.blame("other", "the clock was never set back: nothing was tested")
        yield report
