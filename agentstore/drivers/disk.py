"""What the drivers that keep files look at: room, and what kind of file system it is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from agentstore.findings import Finding

_SCARCE = 2**30
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_MOUNTS = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")  # a space, a tab, a newline or a backslash in there
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4"),
    *("smb3", "smbfs"),
}


def findings(folder: Path) -> list[Finding]:
    """The disk of a folder that is there."""
    found = [_room(folder)]
    kind = _kind(folder)
    if kind in _NETWORK:
        found.append(
            Finding(
                "file system",
                f"{kind}, shared over a network",
                "warning",
                "Locks and memory maps that span machines fail there: use it from one machine only, or a local disk",
            )
        )
    elif kind is not None:
        found.append(Finding("file system", kind))
    return found


def amount(size: int) -> str:
    """So many bytes, in words."""
    value, unit = float(size), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.1f} {_UNITS[unit]}" if unit else f"{size} bytes"


def _room(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    value = f"{amount(usage.free)} free of {amount(usage.total)}"
    if usage.free >= _SCARCE:
        return Finding("disk", value)
    return Finding("disk", value, "warning", "Make room: writes fail when the disk is full (what is stored stays)")


def _kind(folder: Path) -> str | None:
    """The type of the file system; None where the system does not say (all but Linux)."""
    try:
        mounts = _MOUNTS.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place, best, kind = folder.resolve(), -1, None
    for line in mounts:
        here, _, there = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), here.split(" ")[4]))
        if place.is_relative_to(point) and len(point.parts) >= best:  # the last of equal ones lies on top
            best, kind = len(point.parts), there.split(" ")[0]
    return kind
