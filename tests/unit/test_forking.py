"""The doorway to SQLite: who must be outside when the process forks. (Real forks are with the drivers.)"""

import threading

import pytest

from agentstore.errors import UnavailableError
from agentstore.forking import Doorway

PATIENT = 30  # seconds for what ends at once unless it is broken


class Connected:
    parted = 0

    def part(self):
        self.parted += 1


class Others:
    """A thread that is inside, until it is let go."""

    def __init__(self, door):
        self.door, self.inside, self.go = door, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        with self.door:
            self.inside.set()
            assert self.go.wait(PATIENT)

    def __enter__(self):
        self.thread.start()
        assert self.inside.wait(PATIENT)
        return self

    def __exit__(self, *exc):
        self.go.set()
        self.thread.join(PATIENT)
        assert not self.thread.is_alive()


def connected(door):
    one = Connected()
    with door:
        door.connecting(one)
    return one


def forked(door):
    """On a thread that is about to fork."""
    thread = threading.Thread(target=door.before, daemon=True)
    thread.start()
    return thread


def test_a_fork_waits_until_all_have_left_and_parted():
    door = Doorway(PATIENT)
    one = connected(door)
    with Others(door):
        forking = forked(door)
        forking.join(0.05)
        assert (forking.is_alive(), one.parted) == (True, 0)
    forking.join(PATIENT)
    assert (forking.is_alive(), one.parted) == (False, 1)


def test_nobody_enters_while_it_forks():
    door = Doorway(PATIENT)
    door.before()
    other = Others(door)
    other.thread.start()
    assert not other.inside.wait(0.05)
    door.after_in_parent()
    assert other.inside.wait(PATIENT)
    other.go.set()


def test_of_two_forks_one_waits_for_the_other():
    door = Doorway(PATIENT)
    one = connected(door)
    door.before()
    second = forked(door)
    second.join(0.05)
    assert (second.is_alive(), one.parted) == (True, 1)
    door.after_in_parent()
    second.join(PATIENT)
    assert (second.is_alive(), one.parted) == (False, 2)


def test_a_child_begins_with_an_open_door_and_has_nothing_to_part_from():
    door = Doorway(PATIENT)
    one = connected(door)
    door.before()
    door.after_in_child()
    connected(door)
    door.before()
    assert one.parted == 1


@pytest.mark.parametrize("who", ["another", "the one that forks"])
def test_a_fork_in_the_midst_of_it_goes_on_and_its_child_says_why_it_cannot_connect(who):
    door = Doorway(0.05)
    one = connected(door)
    with Others(door) if who == "another" else door:
        door.before()
    assert one.parted == 0
    door.after_in_child()
    with pytest.raises(UnavailableError, match="in the middle of using SQLite"):
        connected(door)
    door.before()
    door.after_in_child()  # nor can a child of the child
    with pytest.raises(UnavailableError):
        connected(door)


def test_a_parent_that_forked_in_the_midst_of_it_goes_on():
    door = Doorway(0.05)
    one = connected(door)
    with Others(door):
        door.before()
        door.after_in_parent()
    door.before()
    assert one.parted == 1
