"""Writes as bytes, and back, equal."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstore import codec
from agentstore.errors import CorruptRecordError
from agentstore.protocol import Append, SetItems
from agentstore.queue.journal import decode, encode
from agentstore.records import Message, ToolCall
from agentstore.testing.texts import EXAMPLES, TEXTS, VALUES, ids, messages, objects, texts, values

ttls = st.none() | st.timedeltas(timedelta(microseconds=1), timedelta(days=365_000))
sizes = st.integers(0, 2**40)
appends = st.builds(
    Append,
    session_id=ids,
    messages=st.lists(messages, max_size=3).map(tuple),
    user_id=st.none() | ids,
    agent=st.none() | ids,
    metadata=st.none() | objects,
    ttl=ttls,
    default_ttl=ttls,
    size=sizes,
)
settings = st.builds(
    SetItems,
    namespace=ids,
    items=st.dictionaries(ids, values | st.binary(max_size=60) | texts.map("b:".__add__), max_size=4),
    ttl=ttls,
    size=sizes,
)


def exactly(op):
    """`op` with the types of its values: 1, 1.0 and True are equal."""
    return repr(op).replace("fold=1, ", "")  # UTC has no hour twice


@EXAMPLES
@given(appends | settings)
def test_any_write_comes_back_equal(op):
    again = decode(encode(op))
    assert again == op
    assert exactly(again) == exactly(op)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts(text):
    message = Message("user", text, tool_calls=(ToolCall(text, text, text),), name=text, metadata={text: [text]})
    op = Append("s", (message,), metadata={text: text})
    assert decode(encode(op)) == op
    assert decode(encode(SetItems("n", {"k": text, "b": text.encode("utf-8", "surrogatepass")}))).items["k"] == text


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_values(value):
    op = SetItems("n", {"k": value})
    assert exactly(decode(encode(op))) == exactly(op)
    op = Append("s", (Message("user", [value], metadata={"k": value}),), metadata={"k": value})
    assert exactly(decode(encode(op))) == exactly(op)


def test_nothing_is_not_emptiness():
    for op in (Append("s"), Append("s", metadata={}), Append("s", (Message("user", ""),)), SetItems("n", {})):
        assert exactly(decode(encode(op))) == exactly(op)


def test_times_are_exact():
    moment = datetime(8999, 12, 31, 23, 59, 59, 999_999, UTC)
    op = Append("s", (Message("user", "", created_at=moment),), ttl=timedelta(days=365_000, microseconds=-1))
    assert decode(encode(op)) == op


def test_conditions_are_left_out():
    assert decode(encode(Append("s", expected_seq=3))) == Append("s")
    assert decode(encode(SetItems("n", {"k": 1}, if_version=3))) == SetItems("n", {"k": 1})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"X[]",
        b"A",
        b"A[]",
        b"A{",
        b"A1",
        b"A\xff",
        b'S["n",null,0,[["k"]]]',
        b'S["n",null,0,[["k","?",true]]]',
        b'S["n",1e400,0,[]]',
        b"A" + codec.to_bytes(["s", None, None, None, None, None, 0, [[1] * 10]]),
    ],
)
def test_what_is_no_write(payload):
    with pytest.raises(CorruptRecordError):
        decode(payload)
