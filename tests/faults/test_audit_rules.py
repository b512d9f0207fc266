"""What the auditor makes of what no writer would do, or only by chance: logs written by hand."""

from dataclasses import replace

import pytest

from agentstore import Message

from . import logbook
from .audit import Store, compare
from .logbook import Logbook


def faults(report):
    return {fault for fault, _ in report.problems}


class Tale:
    """Writes a log by hand, and the store that fits it."""

    def __init__(self, folder):
        self._path = folder / "w.log"
        self.book = Logbook(self._path)
        self.stored, self._seq, self._number = [], 0, 0

    def append(self, count=1, *, answer="ack", store=True):
        numbers = list(range(self._number, self._number + count))
        self._number += count
        messages = [Message("user", f"w:{number}") for number in numbers]
        stored = [replace(m, seq=self._seq + part + 1) for part, m in enumerate(messages)]
        self._seq += count
        n = self.book.intend("append", "s", ids=[m.id for m in messages], numbers=numbers)
        self.answer(n, answer, [m.seq for m in stored])
        self.stored += stored if store else []
        return stored

    def pop(self, count, *, answer="ack", takes=None):
        taken = self.stored[len(self.stored) - (count if takes is None else takes) :]
        n = self.book.intend("pop", "s", count=count)
        self.answer(n, answer, [m.id for m in taken])
        self.stored = [m for m in self.stored if m not in taken]
        return taken

    def set(self, value, *, answer="ack", version=0):
        self.answer(self.book.intend("set", "k", value=value), answer, version)

    def answer(self, n, answer, given):
        if answer == "ack":
            self.book.note("ack", n=n, given=given)
        elif answer is not None:
            self.book.note("error", n=n, error=[answer, "Exception"], text="no")

    def audit(self, stored=None, **state):
        return compare([logbook.read(self._path)], Store({"s": self.stored if stored is None else stored}, state))


@pytest.fixture
def tale(tmp_path):
    return Tale(tmp_path)


DOWN = "UnavailableError"


def test_what_was_in_flight_may_be_there_or_not(tale):
    tale.append()
    tale.append(2, answer=DOWN, store=False)
    tale.append(2, answer=DOWN)
    tale.append(answer=None)
    report = tale.audit()
    assert not report.problems
    assert (report.acknowledged, report.refused) == (1, 2)


def test_an_error_of_another_class(tale):
    tale.append(answer="CorruptRecordError")
    assert faults(tale.audit()) == {"other"}


def test_a_part_of_an_append(tale):
    tale.append()
    tale.append(3, answer=None)
    for part in (tale.stored[:3], tale.stored[:1] + tale.stored[2:], tale.stored[:1] + tale.stored[3:]):
        assert faults(tale.audit(part)) == {"other"}
    assert not tale.audit(tale.stored[:1]).problems


def test_something_in_the_middle_of_an_append(tale):
    first, second = tale.append(2), tale.append(1)
    torn = [first[0], replace(second[0], seq=first[1].seq), replace(first[1], seq=second[0].seq)]
    assert "other" in faults(tale.audit(torn))


def test_an_append_of_which_a_pop_took_the_end(tale):
    tale.append(3)
    tale.pop(2)
    assert not tale.audit().problems


def test_a_late_one_that_nobody_acknowledged_is_out_of_order_too(tale):
    (late,) = tale.append(answer=DOWN)
    (done,) = tale.append()
    assert faults(tale.audit([done, replace(late, seq=9)])) == {"out of order"}


@pytest.mark.parametrize("answer", [None, DOWN])
def test_a_pop_that_never_told_what_it_took(tale, answer):
    tale.append(3)
    tale.pop(2, answer=answer)
    tale.append()
    report = tale.audit()
    assert not report.problems
    assert report.excused == 2


def test_a_pop_excuses_no_more_than_it_asked_for(tale):
    tale.append(3)
    tale.pop(1, answer=DOWN, takes=2)
    assert faults(tale.audit()) >= {"lost"}


def test_a_pop_does_not_excuse_what_was_not_the_newest(tale):
    tale.append()
    tale.append()
    tale.pop(1, answer=DOWN, takes=0)
    assert faults(tale.audit(tale.stored[1:])) == {"lost"}
    assert not tale.audit(tale.stored[:1]).problems


def test_a_pop_does_not_excuse_what_came_after_it(tale):
    tale.append()
    tale.pop(1, answer=DOWN, takes=0)
    tale.append(store=False)
    assert faults(tale.audit()) == {"lost"}


def test_two_pops_share_out_what_is_missing(tale):
    tale.append(1)
    tale.append(3)
    tale.pop(1, answer=DOWN)
    tale.pop(2, answer=DOWN)
    report = tale.audit()
    assert not report.problems
    assert report.excused == 3


def test_one_popped_twice(tale):
    tale.append(2)
    (taken,) = tale.pop(1)
    tale.stored.append(taken)
    tale.pop(1)
    assert faults(tale.audit()) == {"doubled"}


def test_a_pop_that_takes_too_much(tale):
    tale.append(2)
    tale.pop(1, takes=2)
    assert faults(tale.audit()) == {"other"}


def test_a_seq_that_comes_again(tale):
    tale.append()
    (taken,) = tale.append()
    tale.pop(1)
    (again,) = tale.append(answer=DOWN)
    assert faults(tale.audit([tale.stored[0], replace(again, seq=taken.seq)])) == {"doubled"}


def test_an_id_that_is_there_twice(tale):
    (message,) = tale.append()
    assert faults(tale.audit([message, replace(message, seq=2)])) >= {"doubled"}


def test_seqs_that_are_not_those_acknowledged_or_do_not_rise(tale):
    one, two = tale.append(2)
    assert faults(tale.audit([one, replace(two, seq=7)])) == {"out of order"}
    assert "out of order" in faults(tale.audit([two, one]))


def test_the_state_is_the_last_acknowledged_or_what_was_in_flight(tale):
    tale.set(1, answer=DOWN)
    assert not tale.audit(k=1).problems
    assert not tale.audit().problems
    tale.set(2, version=5)
    tale.set(3, answer=DOWN)
    tale.set(4, answer=None)
    for value in (2, 3, 4):
        assert not tale.audit(k=value).problems
    for state in ({}, {"k": 1}, {"k": 5}):
        assert faults(tale.audit(**state)) == {"lost"}


def test_versions_that_come_again(tale):
    tale.set(1, version=5)
    tale.set(2, version=5)
    assert faults(tale.audit(k=2)) == {"out of order"}


def test_a_read_that_lacks_something(tale):
    tale.book.note("misread", place="s", text="of the newest 10 messages, that at 3 of 7 is b, not a")
    assert faults(tale.audit()) == {"other"}


def test_a_log_that_a_kill_has_torn(tale, tmp_path):
    (message,) = tale.append()
    with (tmp_path / "w.log").open("ab") as file:
        file.write(b'{"is": "intent", "at": 1.0, "n')
    report = tale.audit([message])
    assert not report.problems
    assert report.acknowledged == 1
