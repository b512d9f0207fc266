"""Compares what writers were told with what a store holds.

Nothing here knows how the writes went: `compare` takes the logs, and the store as a fresh Database reads it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from agentstore import Database, Message

from .doubts import excused
from .logbook import Call, Story
from .report import Report


@dataclass
class Store:
    """What is there: the messages of each session in their order, and the values of the keys."""

    sessions: dict[str, list[Message]] = field(default_factory=dict)
    state: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """A message that a writer intended.

    Attributes:
        writer: Whose.
        number: Its number among those of its writer in its session.
        group: The ids of the append it came with.
        began: When its first append was called.
        acknowledged: When an append of it returned first; infinity: never.
        seq: What that append returned.
    """

    writer: str
    number: int
    group: tuple[str, ...]
    began: float
    acknowledged: float
    seq: int | None


async def look(database: Database, sessions: Iterable[str], scope: str, keys: Iterable[str]) -> Store:
    """Read a store whole."""
    found = {session: await database.messages(session) for session in sessions}
    return Store(found, await database.state.scope(scope).get_many(list(keys)))


def compare(stories: list[Story], store: Store, *, allowed: tuple[str, ...] = ("UnavailableError",)) -> Report:
    """Audit a store.

    Args:
        stories: The logs of all who ever wrote to it.
        store: What it holds now.
        allowed: The classes of errors that calls may have raised.
    """
    report = Report()
    for story in stories:
        _answers(story, allowed, report)
    places = {call.place for story in stories for call in story.calls if call.what != "set"}
    for session in sorted({*places, *store.sessions}):
        Session(session, stories, store.sessions.get(session, []), report).audit()
    for key in sorted({call.place for story in stories for call in story.calls if call.what == "set"}):
        _key(key, [call for story in stories for call in story.calls if call.place == key], store, report)
    return report


def _answers(story: Story, allowed: tuple[str, ...], report: Report) -> None:
    """Each call came back with an answer, with an error that is allowed, or died with its process."""
    for call in story.calls:
        if call.outcome is not None:
            report.slowest = max(report.slowest, call.ended - call.began)
        if call.outcome == "ack":
            report.acknowledged += 1
        elif call.outcome == "error" and not set(allowed).isdisjoint(call.error):
            report.refused += 1
        elif call.outcome == "error":
            report.blame("other", f"{story.writer}: {call.what} on {call.place} raised {call.error[0]}: {call.text}")
    for note in story.notes:
        if note["is"] == "misread":
            report.blame("other", f"{story.writer}: {note['place']}: {note['text']}")


def _key(key: str, calls: list[Call], store: Store, report: Report) -> None:
    """The last value acknowledged, or a later one that may have been set."""
    calls = sorted(calls, key=lambda call: call.value)
    done = [number for number, call in enumerate(calls) if call.outcome == "ack"]
    last = calls[done[-1]].value if done else None
    possible = [last, *(call.value for call in calls[(done or [-1])[-1] + 1 :])]
    if store.state.get(key) not in possible:
        report.blame("lost", f"key {key} is {store.state.get(key)!r}; it should be one of {possible[:5]}")
    versions = [calls[number].given for number in done if calls[number].given]  # a deferred write has none
    if not _rise(versions):
        report.blame("out of order", f"versions of {key}: {versions}")


class Session:
    """The audit of one session."""

    def __init__(self, name: str, stories: list[Story], stored: list[Message], report: Report) -> None:
        self._name, self._stored, self._report = name, stored, report
        self._calls = [(story.writer, call) for story in stories for call in story.calls if call.place == name]
        self._sent: dict[str, Sent] = {}
        for writer, call in self._calls:
            if call.what == "append":
                self._note(writer, call)
        self._pops = [call for _, call in self._calls if call.what == "pop"]
        self._popped = Counter(known for call in self._pops if call.outcome == "ack" for known in call.given)
        self._position = {message.id: place for place, message in enumerate(stored)}

    def _note(self, writer: str, call: Call) -> None:
        seqs = call.given if call.outcome == "ack" else [None] * len(call.ids)
        acknowledged = call.ended if call.outcome == "ack" else float("inf")
        if len(seqs) != len(call.ids):
            self._blame("other", f"an append of {len(call.ids)} messages returned {len(seqs)}")
        for known, number, seq in zip(call.ids, call.numbers, seqs, strict=False):
            before = self._sent.get(known)
            if before is None or acknowledged < before.acknowledged:
                began = call.began if before is None else before.began
                self._sent[known] = Sent(writer, number, tuple(call.ids), began, acknowledged, seq)

    def _blame(self, fault: str, text: str) -> None:
        self._report.blame(fault, f"session {self._name}: {text}")

    def audit(self) -> None:
        self._known()
        self._once()
        self._order()
        self._gone()
        self._whole(self._missing())

    def _known(self) -> None:
        """Nothing is there that nobody wrote, and nothing says something else."""
        for message in self._stored:
            sent = self._sent.get(message.id)
            text = str(message.content).rstrip("x ")
            if sent is None:
                self._blame("doubled" if self._is_copy(text) else "other", f"nobody wrote {message.id}, {text}")
            elif text != f"{sent.writer}:{sent.number}":
                self._blame("other", f"{message.id} says {text}, not {sent.writer}:{sent.number}")

    def _is_copy(self, text: str) -> bool:
        return any(text == f"{sent.writer}:{sent.number}" for sent in self._sent.values())

    def _once(self) -> None:
        """No id twice, no number twice, no seq for two messages, not popped twice."""
        counts = {
            "id": Counter(message.id for message in self._stored),
            "message": Counter(str(message.content).rstrip("x ") for message in self._stored),
            "pop of": self._popped,
        }
        for what, counter in counts.items():
            for value, count in counter.items():
                if count > 1:
                    self._blame("doubled", f"the {what} {value}, {count} times")
        owners: dict[int, set[str]] = defaultdict(set)
        for known, seq in [(known, sent.seq) for known, sent in self._sent.items()] + [
            (message.id, message.seq) for message in self._stored
        ]:
            if seq is not None:
                owners[seq].add(known)
        for seq, ids in owners.items():
            if len(ids) > 1:
                self._blame("doubled", f"seq {seq} was given to {sorted(ids)}")

    def _order(self) -> None:
        """Seqs rise; and with them the numbers of each writer, in the store as in what was acknowledged."""
        if not _rise([message.seq for message in self._stored]):
            self._blame("out of order", f"seqs do not rise: {[message.seq for message in self._stored][:50]}")
        numbers: dict[str, list[int]] = defaultdict(list)
        for message in self._stored:
            sent = self._sent.get(message.id)
            if sent is not None:
                numbers[sent.writer].append(sent.number)
                if sent.seq not in {None, message.seq}:
                    self._blame("out of order", f"{message.id} was given seq {sent.seq} and has {message.seq}")
        for writer, found in numbers.items():
            if not _rise(found):
                steps = [pair for pair in pairwise(found) if pair[1] <= pair[0]]
                self._blame("out of order", f"numbers of {writer}: {steps[:5]} stand side by side")
            given = sorted((s.number, s.seq) for s in self._sent.values() if s.writer == writer and s.seq is not None)
            if not _rise([seq for _, seq in given]):
                self._blame("out of order", f"seqs that {writer} was given do not rise")

    def _gone(self) -> None:
        """What was popped stays away, and a pop takes what is there, and no more than it was told to."""
        for known in self._popped.keys() & self._position.keys():
            self._blame("resurrected", f"{known} was popped, and is there")
        for known in self._popped.keys() - self._sent.keys():
            self._blame("other", f"{known} was popped, and nobody wrote it")
        for call in self._pops:
            if call.outcome == "ack" and len(call.given) > call.count:
                self._blame("other", f"a pop of {call.count} took {len(call.given)}")

    def _missing(self) -> set[str]:
        """What was acknowledged is there, or was popped; the ids of what a pop without an answer may have taken."""
        absent = self._sent.keys() - self._position.keys() - self._popped.keys()
        missing = [known for known in absent if self._sent[known].acknowledged < float("inf")]
        doubts = [call for call in self._pops if call.outcome != "ack"]
        taken = excused(missing, self._sent, self._stored, doubts)
        for known in missing:
            if known not in taken:
                sent = self._sent[known]
                self._blame("lost", f"{sent.writer}:{sent.number}, seq {sent.seq}, id {known}")
        self._report.excused += len(taken)
        return taken

    def _whole(self, taken: set[str]) -> None:
        """What was appended together is there together, but for an end that was popped."""
        for group in {sent.group for sent in self._sent.values() if len(sent.group) > 1}:
            there = [known for known in group if known in self._position]
            left = group[len(there) :]
            places = [self._position[known] for known in there]
            doubtful = any(call.outcome != "ack" for call in self._pops)
            explained = all(
                known in self._popped or known in taken or (doubtful and self._sent[known].acknowledged == float("inf"))
                for known in left
            )
            if there and (tuple(there) != group[: len(there)] or not explained):
                self._blame("other", f"a part of an append: {there} of {list(group)}")
            elif places and places != list(range(places[0], places[0] + len(places))):
                self._blame("other", f"an append is not contiguous: {there} stand at {places}")


def _rise(values: list[Any]) -> bool:
    return all(one < two for one, two in pairwise(values))
