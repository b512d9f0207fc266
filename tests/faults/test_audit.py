"""An auditor that cannot fail is worthless: it is shown stores that were tampered with, and notices.

Each is one that a writer really wrote, changed behind its back through the public interface.
"""

import asyncio
import shutil

import pytest

from agentstore import Message, db

from .kit import Field
from .writer import SCOPE


def faults(report):
    return {fault for fault, _ in report.problems}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    with Field(f"sqlite:///{folder}/store.db", folder, reads=True) as field:
        field.start().until_each(count=30)
        field.stop()
        yield field


@pytest.fixture
def field(written, tmp_path):
    """The field, and a copy of its store."""
    shutil.copy(written.folder / "store.db", tmp_path)
    written.direct, written.told = f"sqlite:///{tmp_path}/store.db", (0, 0)
    return written


def tamper(field, session, change):
    """Replace a session by what `change` makes of its export."""

    async def act():
        async with db(field.direct) as database:
            data = await database.export_session(session)
            change(data["messages"])
            last = max((message["seq"] for message in data["messages"]), default=0)
            data["session"] |= {
                "message_count": len(data["messages"]),
                "last_seq": max(last, data["session"]["last_seq"]),
            }
            await database.delete_session(session)
            await database.import_session(data)

    asyncio.run(act())


def test_what_was_not_tampered_with_is_clean(field):
    tamper(field, "a0", lambda messages: None)
    report = field.audit()
    assert not report.problems, str(report)
    assert report.acknowledged > 120
    assert report.excused == report.refused == 0


def double(messages):
    copy = {**messages[-1], "id": Message("user", "x").id, "seq": messages[-1]["seq"] + 1}
    messages.append(copy)


def swap(messages):
    one, two = messages[4], messages[5]
    for name in set(one) - {"seq"}:
        one[name], two[name] = two[name], one[name]


def say_something_else(messages):
    messages[2]["content"] = "something else"


def add_a_stranger(messages):
    messages.append({**messages[-1], "id": "new", "seq": messages[-1]["seq"] + 1, "content": "who?"})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda messages: messages.pop(0), "lost"),
        (lambda messages: messages.pop(7), "lost"),
        (lambda messages: messages.pop(), "lost"),
        (lambda messages: messages.clear(), "lost"),
        (double, "doubled"),
        (swap, "out of order"),
        (say_something_else, "other"),
        (add_a_stranger, "other"),
    ],
    ids=["the first lost", "one lost", "the last lost", "all lost", "doubled", "swapped", "changed", "a stranger"],
)
def test_a_session_that_was_tampered_with(field, change, fault):
    tamper(field, "a0", change)
    report = field.audit()
    assert fault in faults(report), str(report)
    assert all("a0" in text for _, text in report.problems), "the others are clean"


def test_a_session_that_is_gone(field):
    with db(field.direct) as database:
        database.sync.delete_session("a1")
    assert faults(field.audit()) >= {"lost"}


def test_one_that_was_popped_is_back(field):
    popped = [call for call in field.calls() if call.what == "pop" and call.given]

    def restore(messages):
        (back, *_), last = popped[0].given, messages[-1]
        (sent,) = [c for c in field.calls() if back in c.ids]
        number, name = sent.numbers[sent.ids.index(back)], field.writers[0].job.name
        messages.append({**last, "id": back, "seq": last["seq"] + 1, "content": f"{name}:{number}"})

    assert popped
    tamper(field, "a3", restore)
    assert "resurrected" in faults(field.audit())


def test_a_key_that_has_an_older_value(field):
    with db(field.direct) as database:
        scope = database.state.scope(SCOPE)
        value = scope.sync.get("key a0")
        scope.sync.set("key a0", value - 1)
    (problem,) = field.audit().problems
    assert problem[0] == "lost"
