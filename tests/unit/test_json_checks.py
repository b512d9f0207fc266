"""What data weighs, and where it is wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from agentstore import InvalidInputError, Message, MessageTooLargeError, Session, ToolCall
from agentstore.checks import (
    MAX_BYTES,
    MAX_DEPTH,
    check_count,
    check_json,
    check_message,
    check_times,
    check_ttl,
    check_value,
)

HUGE = 10**5000  # Python refuses to print so many digits
HUGE_ONES = [pytest.param(HUGE, id="huge"), pytest.param(-HUGE, id="-huge")]


def nested(levels):
    value = 1
    for level in range(levels):
        value = {"k": value} if level % 2 else [value]
    return value


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("ab", 4),
        ("\x00", 3),
        ("é", 4),
        ("\ud800", 5),
        (None, 8),
        (True, 8),
        (-1.5, 8),
        (2**63, 8),
        (-(2**799), 100),
        ([], 2),
        ({"key": ["v", 1]}, 2 + 5 + 2 + 3 + 8),
    ],
)
def test_the_size_of_json(value, size):
    assert check_json(value, "value") == size


def test_a_text_alone_weighs_its_bytes():
    assert check_value("\x00é") == 3
    assert check_value(b"\x00\xff") == 2


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "x" * MAX_BYTES},
        {"tool_call_id": "x" * MAX_BYTES},
        {"metadata": {"k": "x" * MAX_BYTES}},
        {"tool_calls": (ToolCall("x", "x", "x" * MAX_BYTES),)},
        {"name": "x" * (MAX_BYTES // 2), "tool_call_id": "x" * (MAX_BYTES // 2)},
    ],
)
def test_all_text_of_a_message_counts(fields):
    assert check_message(Message("user", "x" * MAX_BYTES)) == MAX_BYTES
    with pytest.raises(MessageTooLargeError):
        check_message(Message("user", "x", **fields))


@pytest.mark.parametrize("char", ["\x00", "\x1a", '"', "\ud800", "é", "😀"])
def test_parts_and_metadata_weigh_what_text_weighs(char):
    fits = char * ((MAX_BYTES - 30) // len(char.encode("utf-8", "surrogatepass")))
    check_message(Message("user", [{"t": fits}]))
    check_message(Message("user", "", metadata={"t": fits}))
    with pytest.raises(MessageTooLargeError):
        check_message(Message("user", [{"t": fits + "x" * 30}]))


def test_text_fits_where_its_json_does():
    assert check_json({"x": "m" * (MAX_BYTES - 8)}, "metadata") <= MAX_BYTES
    with pytest.raises(MessageTooLargeError):
        check_json(["x" * (MAX_BYTES - 3)], "value")


def test_a_million_numbers_fit():
    assert check_value([1] * 10**6) == 8 * 10**6 + 2
    with pytest.raises(MessageTooLargeError):
        check_value([1] * 2**20)


def test_shared_lists_are_walked_no_further_than_8_mib():
    value = []
    for _ in range(150):
        value = [value, value]
    with pytest.raises(MessageTooLargeError):  # to the end it would be longer than anyone lives
        check_json(value, "value")


def test_a_list_within_itself_is_too_deep():
    value = []
    value.append(value)
    with pytest.raises(InvalidInputError, match="nested more than"):
        check_json(value, "value")


def test_the_depth_has_a_limit():
    check_json(nested(MAX_DEPTH), "value")
    with pytest.raises(InvalidInputError, match="value is nested more than 200 levels deep"):
        check_json(nested(MAX_DEPTH + 1), "value")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, {"b": {1}}]}, r"value\['a'\]\[1\]\['b'\] is a set, which"),
        ([1.0, float("nan")], r"value\[1\] is nan, which"),
        ([[], [HUGE]], r"value\[1\]\[0\] is an int of more than 4,300 digits"),
        ({"a": [{1: 2}]}, r"value\['a'\]\[0\] has 1 as a key"),
        ({(HUGE,): 2}, "value has a tuple as a key"),
        ((1,), "value is a tuple, which"),
    ],
)
def test_the_place_of_what_is_no_json_is_named(value, told):
    with pytest.raises(InvalidInputError, match=told):
        check_json(value, "value")


def test_the_place_is_found_among_shared_lists():
    value = [object()]
    for _ in range(15):
        value = [value, value]
    with pytest.raises(InvalidInputError, match=r"value(\[0\]){16} is a object"):
        check_json(value, "value")


def test_counts_end_where_64_bits_do():
    assert [check_count(value, "n") for value in (0, 2**63 - 1, 2**63, 10**30)] == [0] + [2**63 - 1] * 3


@pytest.mark.parametrize("value", [-1, True, 1.0, None, "1", *HUGE_ONES, [HUGE]])
def test_what_is_no_count_is_refused(value):
    with pytest.raises(InvalidInputError, match=r"^limit must be an int of at least 0, not "):
        check_count(value, "limit")


@pytest.mark.parametrize("value", [0, -1, *HUGE_ONES, float("nan"), float("inf"), True, "1", [HUGE], timedelta.max])
def test_what_is_no_ttl_is_refused(value):
    with pytest.raises(InvalidInputError, match=r"^ttl "):
        check_ttl(value)


def test_the_latest_time_and_the_longest_ttl_are_a_date():
    latest, longest = datetime(8999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), check_ttl(365_000 * 86400)
    check_times(Session("s", created_at=latest, updated_at=latest))
    assert (latest + longest).year == 9999


MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    "times",
    [
        {"created_at": datetime(9000, 1, 1, tzinfo=UTC)},
        {"updated_at": datetime(9000, 1, 1, tzinfo=UTC)},
        {"expires_at": datetime(9000, 1, 1, tzinfo=UTC)},
        {"updated_at": MOMENT, "expires_at": MOMENT},
        {"updated_at": MOMENT, "expires_at": datetime(8999, 1, 1, tzinfo=UTC)},
    ],
)
def test_times_from_which_a_store_cannot_go_on_are_refused(times):
    with pytest.raises(InvalidInputError, match=r"Session\."):
        check_times(Session("s", **times))
