"""Records: plain data and back, and what they refuse."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from agentstore import InvalidInputError, Message, Page, Session, StateItem, Stats, ToolCall
from agentstore.records import copy_json
from agentstore.stats import Latency

MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.mark.parametrize(
    "record",
    [
        Message("user", "hi", created_at=MOMENT),
        Message("assistant", [{"type": "text"}], "id", 7, (ToolCall("c", "f", "{"),), "c", "n", {"a": 1}, "r", MOMENT),
        Session("s", "u", "a", "t", {"k": None}, MOMENT, MOMENT, 1, 2, MOMENT, "p"),
        StateItem("k", [1], 3, MOMENT),
        StateItem("k", b"\xff\x00", 3),
        StateItem("k", {"bytes": "/wA="}, 3),
        Page((Session("s", created_at=MOMENT, updated_at=MOMENT), Session("t", metadata={"k": [1]})), "next"),
        Page(()),
        ToolCall("c", "f", "not json"),
    ],
)
def test_dicts_come_back_equal(record):
    assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record


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
        {"role": "user", "content": "hi", "created_at": 5},
        {"role": "user", "content": "hi", "created_at": None},
        {"role": "user", "content": "hi", "created_at": "0001-01-01T00:00:00+05:00"},
        {"role": "user", "content": "hi", "tool_calls": 5},
        {"role": "user", "content": "hi", "tool_calls": ["call"]},
        {"role": "user", "content": "hi", "tool_calls": [{"id": "c", "name": "f", "arguments": {}}]},
    ],
)
def test_what_is_no_message_is_refused(fields):
    with pytest.raises(InvalidInputError):
        Message.from_dict(fields)


@pytest.mark.parametrize("name", ["created_at", "updated_at", "expires_at"])
def test_a_sessions_times_are_utc_or_refused(name):
    east = timezone(timedelta(hours=5))
    session = Session("s", **{name: datetime(2026, 1, 1, 5, tzinfo=east)})
    assert getattr(session, name).tzinfo is UTC
    assert getattr(session, name) == datetime(2026, 1, 1, tzinfo=UTC)
    for wrong in (5, "2026-01-01", datetime(2026, 1, 1), datetime(1, 1, 1, tzinfo=east)):  # noqa: DTZ001  it lacks one
        with pytest.raises(InvalidInputError, match=f"Session.{name}"):
            Session("s", **{name: wrong})


def test_only_the_expiry_of_a_session_may_be_none():
    assert Session("s", expires_at=None).expires_at is None
    for name in ("created_at", "updated_at"):
        with pytest.raises(InvalidInputError, match=f"Session.{name} must be a datetime, not None"):
            Session("s", **{name: None})


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (StateItem, {"key": "k", "bytes": "?", "version": 1}),
        (StateItem, {"key": "k", "bytes": 5, "version": 1}),
        (StateItem, {"key": "k", "bytes": "", "value": 1, "version": 1}),
        (Page, {"items": 5}),
        (Page, {"items": [5]}),
        (Page, {"next_cursor": None}),
        (Session, 5),
    ],
)
def test_what_no_record_gave_is_refused(kind, data):
    with pytest.raises(InvalidInputError):
        kind.from_dict(data)


def test_stats_become_json():
    data = Stats(latencies={"append": Latency(1, 0.5, 0.5, 0.5)}, errors={"ConflictError": 2}).to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["latencies"] == {"append": {"count": 1, "mean": 0.5, "p50": 0.5, "p99": 0.5}}


def test_a_dict_shares_nothing_with_its_record():
    message = Message("user", [{"a": [1]}], metadata={"b": {"c": [2]}})
    data = message.to_dict()
    data["content"][0]["a"].append(3)
    data["metadata"]["b"]["c"].append(4)
    assert (message.content, message.metadata) == ([{"a": [1]}], {"b": {"c": [2]}})


def test_json_is_copied_without_recursion():
    deep = []
    for _ in range(10_000):
        deep = [deep, {"a": 1}]
    copy, levels = copy_json(deep), 0
    while copy:
        assert copy is not deep
        assert copy[1] == {"a": 1}
        assert copy[1] is not deep[1]
        copy, deep, levels = copy[0], deep[0], levels + 1
    assert levels == 10_000
