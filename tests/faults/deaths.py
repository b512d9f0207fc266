"""Processes that are killed: writers and servers."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import servers

from .effort import Effort
from .kit import Field, Writer, one_round
from .report import Report

_ROUNDS_PER_STORE = 10
"""An audit reads all that a store holds: what is behind it grows with the square."""

_RATE = 150.0
"""Calls a second of a writer, where several share the machine: the next one must get a turn to start."""

_SURE = {"redis": ("--appendfsync", "always")}


@contextmanager
def store(kind: str, folder: Path) -> Iterator[str]:
    """The URL of an empty store, on the shared server or in `folder`."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/store.db"
    elif kind == "json":
        yield f"json:///{folder}/store"
    else:
        with servers.fresh(kind) as url:
            yield url


def writer_killed(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """A writer dies at any moment, amid any call; the next goes on where it fell."""
    for first in range(0, effort.rounds, _ROUNDS_PER_STORE):
        here = folder / str(first)
        here.mkdir()
        with store(kind, here) as url, Field(url, here, durability=durability, reads=True) as field:
            for _ in range(first, min(first + _ROUNDS_PER_STORE, effort.rounds)):
                writer = field.launch()
                if field.chance.random() < 0.1:
                    time.sleep(field.chance.uniform(0.1, 1.0))  # while it starts, and opens the store
                else:
                    writer.until_more(field.chance.randrange(1, 60))
                    time.sleep(field.chance.uniform(0.0, 0.02))
                writer.kill()
                yield field.audit()
                yield one_round()


def server_killed(kind: str, durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """A server dies under load and comes back; its two writers go on through the errors."""
    with servers.private_server(kind, *_SURE.get(kind, ())) as server:
        options = {"connect_timeout": 2.0, "statement_timeout": 5.0}
        with Field(server.url, folder, durability=durability, pool=options, rate=_RATE, reads=True) as field:
            writers = [field.start(slot) for slot in "ab"]
            for _ in range(effort.rounds):
                for writer in writers:
                    writer.until_more(field.chance.randrange(5, 100))
                time.sleep(field.chance.uniform(0.0, 0.02))
                server.kill()
                for writer in writers:
                    writer.until_felt()
                server.start()
                for writer in writers:
                    writer.until_each()
                yield one_round()
            field.stop()
            yield field.audit()


def _at_work(writer: Writer) -> bool:
    writer.look()
    return any(writer.acknowledged.values())


def four_writers(durability: str, effort: Effort, folder: Path) -> Iterator[Report]:
    """Four processes on the same sessions of one PostgreSQL; each second one is killed, and another takes its place."""
    with ExitStack() as stack:
        url = stack.enter_context(servers.fresh("postgresql"))
        shared = [f"s{n}" for n in range(6)]
        job = {"sessions": shared, "pops": shared[-1:], "rate": _RATE}
        field = stack.enter_context(Field(url, folder, durability=durability, **job))
        slots = {slot: field.launch(slot, keys=[f"key {slot}"]) for slot in "abcd"}
        end = time.monotonic() + effort.seconds
        while time.monotonic() < end:
            due = time.monotonic() + 1.0
            slots["a"].until(lambda: any(map(_at_work, slots.values())), "any writer at work")
            slot = field.chance.choice([slot for slot, writer in slots.items() if _at_work(writer)])
            slots[slot].kill()
            slots[slot] = field.launch(slot, keys=[f"key {slot}"])
            time.sleep(max(0.0, due - time.monotonic()))
            yield one_round()
        field.stop()
        yield field.audit()
