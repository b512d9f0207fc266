"""Records: plain data and back, and what they refuse."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from agentstore import InvalidInputError, Message, Session, StateItem, ToolCall

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    "record",
    [
        Message("user", "hi", created_at=MOMENT),
        Message("assistant", [{"type": "text"}], "id", 7, (ToolCall("c", "f", "{"),), "c", "n", {"a": 1}, "r", MOMENT),
        Session("s", "u", "a", "t", {"k": None}, MOMENT, MOMENT, 1, 2, MOMENT, "p"),
        StateItem("k", [1], 3, MOMENT),
        ToolCall("c", "f", "not json"),
    ],
)
def test_dicts_come_back_equal(record):
    assert type(record).from_dict(record.to_dict()) == record


def test_only_role_and_content_are_needed():
    first, second = Message("user", "hi"), Message(role="user", content="hi")
    assert first.id < second.id
    assert (first.seq, first.tool_calls, first.metadata) == (None, (), {})
    assert first.created_at.tzinfo is UTC


def test_times_become_utc():
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    assert Message("user", "hi", created_at=moment).created_at == moment
    assert Message("user", "hi", created_at=moment).to_dict()["created_at"] == "2026-01-01T10:00:00.000000+00:00"


def test_records_are_frozen():
    with pytest.raises(AttributeError):
        Message("user", "hi").content = "other"


@pytest.mark.parametrize(
    "fields",
    [
        {"role": "user"},
        {"role": "user", "content": None},
        {"role": "user", "content": b"bytes"},
        {"role": "user", "content": "hi", "colour": "red"},
        {"role": "user", "content": "hi", "created_at": "yesterday"},
        {"role": "user", "content": "hi", "created_at": datetime(2026, 1, 1)},  # noqa: DTZ001  it lacks a time zone
        {"role": "user", "content": "hi", "tool_calls": ["call"]},
        {"role": "user", "content": "hi", "tool_calls": [{"id": "c", "name": "f", "arguments": {}}]},
    ],
)
def test_what_is_no_message_is_refused(fields):
    with pytest.raises(InvalidInputError):
        Message.from_dict(fields)
