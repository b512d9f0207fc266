"""What conversations and state have in common."""

from __future__ import annotations

import threading

from agentstore.errors import ClosedError


class Shared:
    """One thread lock guards all; it is held for microseconds and never across an await."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError
