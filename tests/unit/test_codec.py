"""Clean text: what every backend takes, and back."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentstore import codec
from agentstore.errors import CorruptRecordError, InvalidInputError

ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\x00\x1a\ud800\udc00[0123456789abcdef"))
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=20,
)


def clean(text):
    return "\x00" not in text and text.encode() is not None


@given(ANY_TEXT)
@example("\ud83d\ude00")  # two surrogates are not the character that UTF-16 makes of them
@example("\x1a[")
@example("\x1a0000")
def test_text(text):
    stored = codec.content_to_text(text)
    assert clean(stored)
    assert codec.content_from_text(stored) == text


@given(ANY_JSON)
def test_json(value):
    stored = codec.dumps(value)
    assert clean(stored)
    assert "\n" not in stored
    assert codec.loads(stored) == value


@given(st.lists(ANY_JSON))
def test_parts(parts):
    stored = codec.content_to_text(parts)
    assert clean(stored)
    assert codec.content_from_text(stored) == parts


@given(ANY_JSON | st.binary())
def test_values(value):
    stored = codec.value_to_text(value)
    assert clean(stored)
    back = codec.value_from_text(stored)
    assert (type(back), back) == (type(value), value)


def test_ordinary_text_and_json_are_stored_as_they_are():
    assert codec.content_to_text('Grüße, "Welt" 🎉\n') == 'Grüße, "Welt" 🎉\n'
    assert json.loads(codec.dumps({"a": ["🎉", "\x00"]})) == {"a": ["🎉", "\x00"]}


def test_what_is_no_json_is_corrupt():
    with pytest.raises(CorruptRecordError) as caught:
        codec.loads('{"a":')
    assert isinstance(caught.value.__cause__, ValueError)


@given(st.datetimes(timezones=st.just(codec.from_micros(0).tzinfo)))
def test_times_are_exact(moment):
    assert codec.from_micros(codec.to_micros(moment)) == moment


def test_json_too_deep_for_the_stack_is_told_as_such():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="too deeply for this stack"):
        codec.dumps(deep)


MIB = 2**20


@pytest.mark.parametrize("unit", ["\x00", "\ud83d", "\x01\x1f", "\n", '"', "\\"])
def test_what_escapes_would_blow_up_is_packed(unit):
    text = unit * (2 * MIB // len(unit.encode(errors="surrogatepass")))
    for stored, back in (
        (codec.content_to_text(text), codec.content_from_text),
        (codec.content_to_text([text]), lambda stored: codec.content_from_text(stored)[0]),
        (codec.dumps({"k": text}), lambda stored: codec.loads(stored)["k"]),
    ):
        assert clean(stored)
        assert len(stored.encode()) < 2.5 * MIB
        assert back(stored) == text


def test_a_damaged_packed_text_is_corrupt():
    stored = codec.content_to_text("\x00" * MIB)
    with pytest.raises(CorruptRecordError, match="unpacked"):
        codec.content_from_text(stored[:-100])


@pytest.mark.parametrize("stored", ["b:!!!a", "b:AAAA!!!!AAAA", "b:A", "b:é", "{", ""])
def test_a_damaged_value_is_corrupt(stored):
    with pytest.raises(CorruptRecordError):
        codec.value_from_text(stored)
