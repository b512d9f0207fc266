"""One store as this process writes it: its loop, its locks and its writer number.

Nothing on the server keeps two writers apart, so those of one process take turns here. They do so on a loop of their
own: a lock held by a task of a caller's loop would stay held as long as that loop is blocked, by a synchronous call
that waits for this very lock, say.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from agentstore.private_loop import lasting

from .numbers import Writer
from .recent import Recent

if TYPE_CHECKING:
    from collections.abc import Hashable

loop = lasting("agentstore-clickhouse")


class Place:
    """What the backends of one store share in this process.

    Attributes:
        log: Held while the log is written.
        state: Held while the state is.
        writer: Gives seqs and versions.
        recent: The heads it wrote.
    """

    def __init__(self) -> None:
        self.log = asyncio.Lock()
        self.state = asyncio.Lock()
        self.writer = Writer()
        self.recent = Recent()


_places: dict[tuple[Hashable, asyncio.AbstractEventLoop], Place] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_places.clear)  # locks may be held by the parent; the writer is another


def place(store: Hashable) -> Place:
    """That of a `Target.store`; on the private loop only."""
    return _places.setdefault((store, asyncio.get_running_loop()), Place())
