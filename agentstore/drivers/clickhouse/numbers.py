"""Seqs and versions that two processes cannot both give, though neither sees what the other is about to.

A seq is a counter, the number of the writer, and the place within one append. So the messages of one append stand
together, also between those of another process that counted just as far; and a range of counters holds about as many
messages, whatever the session's length.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .sending import Sent

if TYPE_CHECKING:
    from collections.abc import Sequence

WRITER_BITS = 20
INDEX_BITS = 10  # places within one append; a longer one goes on with the next counter
SEQ_BITS = WRITER_BITS + INDEX_BITS
HIGHEST = 2**63 - 1
_SLOTS = 1024
_PLACES = 1 << INDEX_BITS


def end(last: int) -> int:
    """The lowest seq that a writer who knows `last` cannot give any more, nor those who knew less.

    It is not ``last + 1``: two processes may share a slot, and the head of one replace that of the other.
    """
    return min(((last >> SEQ_BITS) + 1) << SEQ_BITS, HIGHEST)


class Writer:
    """Numbers given by one writer: by one process to one store.

    Attributes:
        slot: Under which a session keeps its head. There are only so many, else short-lived processes would leave
            a session with ever more heads.
        sent: What it must not give again.
    """

    __slots__ = ("_number", "sent", "slot")

    def __init__(self) -> None:
        self.sent = Sent()
        self._number = secrets.randbelow(1 << WRITER_BITS)
        self.slot = self._number % _SLOTS

    def seqs(self, last: int, count: int) -> Sequence[int]:
        """The seqs of one append, above `last`."""
        counter = (last >> SEQ_BITS) + 1
        base = self._number << INDEX_BITS
        return [(counter + at // _PLACES) << SEQ_BITS | base | at % _PLACES for at in range(count)]

    def versions(self, last: int, count: int) -> Sequence[int]:
        """Versions of a key of the state, above `last` and all that may yet be stored."""
        counter = (max(last, self.sent.state) >> WRITER_BITS) + 1
        return [(counter + at) << WRITER_BITS | self._number for at in range(count)]


@dataclass(frozen=True, slots=True)
class Scale:
    """How far apart seqs are, in messages: about, and hardly ever too far.

    Attributes:
        dense_to: The last seq that was given by another store, which counts one by one; 0 if there is none.
    """

    dense_to: int

    def place(self, seq: int) -> int:
        """How many appends or messages lie at or below `seq`."""
        if self.dense_to >> SEQ_BITS:  # from a store like this one
            return seq >> SEQ_BITS
        return seq if seq <= self.dense_to else self.dense_to + (seq >> SEQ_BITS)

    def seq(self, place: int) -> int:
        """The lowest seq at `place`."""
        if place < 0:
            return -1
        if self.dense_to >> SEQ_BITS:
            return place << SEQ_BITS
        return place if place <= self.dense_to else (place - self.dense_to) << SEQ_BITS
