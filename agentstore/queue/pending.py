"""What has been accepted and is not stored yet: in lanes, one for each session and each namespace.

A lane's writes reach the backend in the order in which they were accepted, and never two groups of one lane at a time.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

from agentstore.concurrency import DaemonExecutor
from agentstore.protocol import Append, Mark, SetItems
from agentstore.records import utcnow

from .journal import encode

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from datetime import datetime

    from agentstore.errors import AgentstoreError
    from agentstore.telemetry import Caller

Deferrable: TypeAlias = Append | SetItems

io = DaemonExecutor(1, "agentstore-journals")
"""Does what blocks about the files of journals."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=io.forget)

MAX_GROUP = 1000  # writes in a group
MAX_GROUP_BYTES = 16 * 2**20
_LEAST_TTL = timedelta(milliseconds=1)


@dataclass(slots=True, eq=False)
class Entry:
    """One accepted write.

    Attributes:
        op: What is to be stored; its values are nobody else's.
        mark: Its place in the queue that accepted it first.
        caller: The span that it was accepted in, where spans are recorded.
        journalled: Whether it stands in this queue's journal.
        handed: It was handed to the backend once, so that it may be stored whatever we have heard.
        dead: A later write of the same keys has made it pointless before it was handed to the backend.
        overtaken: A later write of its lane was stored although this one was not.
        refusal: What the backend said, as long as the write could not be put aside.
        accepted_at: When.
        serial: Its place among all that is pending; rises in the order in which writes were accepted.
    """

    op: Deferrable
    mark: Mark
    caller: Caller = None
    journalled: bool = False
    handed: bool = False
    dead: bool = False
    overtaken: bool = False
    refusal: AgentstoreError | None = None
    accepted_at: datetime = field(default_factory=utcnow)
    serial: int = 0

    def marked(self) -> Deferrable:
        """What goes to the backend now."""
        # By its mark one that was overtaken would pass for stored.
        return replace(self._aged(), mark=None if self.overtaken else self.mark)

    def payload(self) -> bytes:
        """What goes into a journal."""
        return encode(self._aged())

    def _aged(self) -> Deferrable:
        """The write with the time to live that is left: a key that has expired here must not be visible again."""
        if not isinstance(self.op, SetItems) or not isinstance(self.op.ttl, timedelta):
            return self.op
        return replace(self.op, ttl=max(self.accepted_at + self.op.ttl - utcnow(), _LEAST_TTL))

    @property
    def weight(self) -> int:
        """By how much it counts in `Bounds`."""
        return weight(self.op)


def weight(op: Deferrable) -> int:
    """Messages, or one for anything else."""
    return len(op.messages) or 1 if isinstance(op, Append) else 1


@dataclass(slots=True, eq=False)
class Lane:
    """The writes of one session or namespace.

    Attributes:
        key: The session's id, or the namespace.
        waiting: Those that wait, in order, dead ones among them.
        in_flight: Those that are with the backend now; they came before.
        latest: Of a namespace: by key the last write that names it.
    """

    key: str
    waiting: deque[Entry] = field(default_factory=deque)
    in_flight: list[Entry] = field(default_factory=list)
    latest: dict[str, Entry] = field(default_factory=dict)
    _dead: int = 0

    def add(self, entry: Entry) -> list[Entry]:
        """Let a write wait; those that it makes pointless."""
        self.waiting.append(entry)
        if isinstance(entry.op, Append):
            return []
        before = {id(old): old for key in entry.op.items if (old := self.latest.get(key)) is not None}
        self.latest.update(dict.fromkeys(entry.op.items, entry))
        dead = [old for old in before.values() if not old.handed and not self.counts(old)]
        for old in dead:
            old.dead = True
        self._dead += len(dead)
        if self._dead > len(self.waiting) // 2:
            self.waiting = deque(entry for entry in self.waiting if not entry.dead)
            self._dead = 0
        return dead

    def counts(self, entry: Entry) -> bool:
        """Whether a write of state is the last one of any of its keys."""
        return isinstance(entry.op, SetItems) and any(self.latest.get(key) is entry for key in entry.op.items)

    def next(self) -> Entry | None:
        """The first that is to be stored."""
        while self.waiting and self.waiting[0].dead:
            self.waiting.popleft()
            self._dead -= 1
        return self.waiting[0] if self.waiting else None

    def leave(self, done: set[Entry]) -> None:
        """Those of the group in flight have left the queue; the others wait again."""
        left = [entry for entry in self.in_flight if entry not in done]
        self.in_flight.clear()
        self.waiting.extendleft(reversed(left))
        for entry in done:
            if isinstance(entry.op, SetItems):
                for key in entry.op.items:
                    if self.latest.get(key) is entry:
                        del self.latest[key]


class Lanes:
    """The lanes of one primitive, from which hands take groups.

    Args:
        guard: Held by whoever calls anything here.
    """

    def __init__(self, guard: threading.RLock) -> None:
        self.guard = guard
        self.by_key: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()  # something waits in them, and nothing is in flight
        self._idle: list[Callable[[], None]] = []  # of hands that found nothing to take: how to wake them

    def add(self, key: str, entry: Entry) -> tuple[Callable[[], None] | None, list[Entry]]:
        """Let a write wait.

        Returns:
            How to wake somebody to take it, if nobody is about to; and the writes that it makes pointless.
        """
        lane = self.by_key.get(key)
        if lane is None:
            lane = self.by_key[key] = Lane(key)
        if not lane.waiting and not lane.in_flight:
            self._ready.append(lane)
        dead = lane.add(entry)
        return (self._idle.pop() if self._idle and self._ready else None), dead

    def entries(self, key: str) -> tuple[Entry, ...]:
        """What is pending for a session or namespace, in order."""
        lane = self.by_key.get(key)
        return (*lane.in_flight, *lane.waiting) if lane is not None else ()

    def first(self, key: str) -> Entry | None:
        """The oldest write that is pending for a session or namespace."""
        lane = self.by_key.get(key)
        if lane is None:
            return None
        return lane.in_flight[0] if lane.in_flight else lane.next()

    def last(self, key: str) -> Entry | None:
        """The newest."""
        lane = self.by_key.get(key)
        if lane is None:
            return None
        return lane.waiting[-1] if lane.waiting else lane.in_flight[-1]

    def take(self, wake: Callable[[], None]) -> list[tuple[Lane, list[Entry]]]:
        """A group for the backend, lane by lane; if there is none, `wake` is called when there is."""
        group: list[tuple[Lane, list[Entry]]] = []
        count = size = 0
        while self._ready and count < MAX_GROUP and size < MAX_GROUP_BYTES:
            lane = self._ready.popleft()
            while count < MAX_GROUP and (entry := lane.next()) is not None:
                if count and size + entry.op.size > MAX_GROUP_BYTES:
                    size = MAX_GROUP_BYTES
                    break
                entry.handed = True
                lane.in_flight.append(lane.waiting.popleft())
                size += entry.op.size
                count += 1
            if lane.in_flight:
                group.append((lane, list(lane.in_flight)))
            else:  # its first is too large for what is left
                self._ready.appendleft(lane)
        if not group and wake not in self._idle:
            self._idle.append(wake)
        return group

    def settle(self, lane: Lane, done: set[Entry]) -> Callable[[], None] | None:
        """Those of a lane's group have left the queue, the others wait again; how to wake somebody to take them."""
        lane.leave(done)
        if lane.next() is None:
            del self.by_key[lane.key]
            return None
        self._ready.append(lane)
        return self._idle.pop() if self._idle else None
