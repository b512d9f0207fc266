"""What a pop may have taken that never answered: its process died, or it raised an error.

Each such pop excuses at most as many missing messages as it asked for, and only those that were the newest when it
was called: not one below a message that was acknowledged before and is still there, nor one that came after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentstore import Message

    from .audit import Sent
    from .logbook import Call


def excused(missing: list[str], sent: dict[str, Sent], stored: list[Message], pops: list[Call]) -> set[str]:
    """Those of the missing ids that can be shared out among the pops."""
    if not missing or not pops:
        return set()
    survivors = [sent[message.id] for message in stored if message.id in sent]
    seqs = {message.id: message.seq for message in stored}
    floors = [_floor(pop, survivors, [seqs[m.id] for m in stored if m.id in sent]) for pop in pops]
    options = {
        known: [n for n, pop in enumerate(pops) if _may_have_taken(pop, floors[n], sent[known])] for known in missing
    }
    taken: dict[int, list[str]] = {n: [] for n in range(len(pops))}

    def place(known: str, tried: set[int]) -> bool:
        """Give `known` to a pop, moving others to other pops where that makes room."""
        for n in options[known]:
            if n in tried:
                continue
            tried.add(n)
            if len(taken[n]) < pops[n].count:
                taken[n].append(known)
                return True
            for other in taken[n]:
                if place(other, tried):
                    taken[n].remove(other)
                    taken[n].append(known)
                    return True
        return False

    return {known for known in missing if place(known, set())}


def _floor(pop: Call, survivors: list[Sent], seqs: list[int | None]) -> tuple[int, dict[str, int]]:
    """The highest seq, and the highest number of each writer, that was there before the pop and is there still."""
    highest, numbers = 0, {}
    for one, seq in zip(survivors, seqs, strict=True):
        if one.acknowledged < pop.began:
            highest = max(highest, seq or 0)
            numbers[one.writer] = max(numbers.get(one.writer, -1), one.number)
    return highest, numbers


def _may_have_taken(pop: Call, floor: tuple[int, dict[str, int]], message: Sent) -> bool:
    highest, numbers = floor
    if message.number <= numbers.get(message.writer, -1) or (message.seq is not None and message.seq <= highest):
        return False
    return message.began < pop.ended
