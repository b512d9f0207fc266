"""Ids, texts and values that stores have got wrong, and hypothesis strategies for more."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from agentstore.records import Message, ToolCall

IDS = (
    *("A", "a", "a ", " a", "a/b", "a_b", "a b", "a  ", "a-b", "a.b", "a:b", "a\\b", "a\tb", "a\nb", "a\r", "a\x01"),
    *("../x", "..", ".", "/", "//", "a/", "./a", "~", "CON", "con", "nul.txt", "a.json", ".jsonl", "\x7f"),
    *("%", "_", "a%", "%61", "*", "a*", "?", "[a]", "{a}", "'", '"', "a'; DROP TABLE sessions; --", "$a", "a.$b"),
    *("\x1a", "\x1a001a", "null", "None", "true", "0", "00", "-1", "1e3", "\ue000", "\uffff", "\U00010000"),
    *("é", "e\u0301", "\ufb01", "fi", "ß", "ss", "SS", "İ", "i\u0307", "\u0131", "Å", "\u212b", "\uff41", "\u200b"),
    *("\ufeffa", "שלום", "日本", "😀", "😁", "👩\u200d🚀", "👩🚀", "\U0010ffff"),
    *("x" * 254, "x" * 255, "X" * 255, "😀" * 255, "😀" * 254 + "😁", "é" * 255),
)
"""Ids that are all different."""

BAD_IDS: dict[str, Any] = {
    "empty": "",
    "256 characters": "x" * 256,
    "NUL": "a\x00b",
    "high surrogate": "a\ud83d",
    "low surrogate": "\ude00",
    "bytes": b"a",
    "int": 5,
}
"""What is no id."""

TEXTS = {
    "empty": "",
    "blank": " \t\r\n ",
    "trailing blanks": "a  \n",
    "NUL": "\x00",
    "NULs within": "a\x00b\x00\x00",
    "control characters": "".join(map(chr, range(32))) + "\x7f\x80\x85\u2028\u2029",
    "high surrogate": "a\ud83d",
    "low surrogate": "\ude00b",
    "surrogates that look like a pair": "\ud83d\ude00",
    "a pair beside its character": "\ud83d\ude00😀",
    "surrogates in the wrong order": "\ude00\ud83d",
    "U+001A": "\x1a",
    "U+001A and hex digits": "\x1a0041\x1ad83d",
    "U+001A and brackets": '\x1a["not json"]',
    "U+001A and a brace": "\x1a{}",
    "looks like bytes": "b:aGk=",
    "looks like JSON": '{"a": [1, null]}',
    "JSON escapes": "\\u0000 \\ud83d \\n \\\\",
    "4-byte": "😀👩\u200d🚀\U0010ffff",
    "noncharacters": "\ufffe\uffff\U0001fffe",
    "right-to-left": "שלום \u202eabc\u202c مرحبا",
    "combining": "e\u0301 é a\u0308\u0323 \u0301",
    "byte order mark": "\ufeffa",
    "quotes": "'\"`; DROP TABLE messages; -- %s %(a)s :a ? $1 {0}",
    "70,000 characters": "ü" * 70_000,
}
"""Texts that come back as they were."""

VALUES: dict[str, Any] = {
    "null": None,
    "booleans": [True, False],
    "ints that are no floats": [0, 1, -1, 2**53 + 1, -(2**53) - 1],
    "64 bits and more": [2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**400],
    "floats": [0.0, 1.0, -0.0, 0.1, 1e308, -1.7976931348623157e308, 5e-324, 2.0**60, 1e22],
    "empty things": ["", [], {}, [[]], [{}], {"": {}}],
    "deep list": [[[[[[[[[[]]]]]]]]]],
    "dollars and dots": {"$set": {"a.b": 1}, ".": 0, "$": None, "a.$.b": [], "__proto__": {}, "%": 1},
    "tricky keys": dict.fromkeys(("", "\x00", "a\x00b", "�", "\x1a", "é", "é", "A", "a", "😀"), 1),
    "texts": list(TEXTS.values()),
    "texts as keys": {text: index for index, text in enumerate(TEXTS.values())},
}
"""JSON values that come back as they were."""


def nested(depth: int) -> Any:
    """Lists and dicts in turn, `depth` levels deep."""
    value: Any = "bottom"
    for level in range(depth):
        value = {"k": value} if level % 2 else [value]
    return value


VALUES["100 levels"] = nested(100)

_cycle: list[Any] = []
_cycle.append(_cycle)

NO_JSON: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "tuple": (1, 2),
    "set": {1},
    "bytes within": [b"a"],
    "object": object(),
    "int as key": {1: "a"},
    "None as key": {None: "a"},
    "bool as key": {True: "a"},
    "bytes as key": {b"a": 1},
    "10,000 levels": nested(10_000),
    "a cycle": _cycle,
}
"""What JSON cannot carry, at whatever depth it stands."""

EXAMPLES = settings(
    max_examples=40,
    deadline=None,
    database=None,  # leave no files in the caller's folder
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store serves all examples: each makes a session of its own
        HealthCheck.differing_executors,  # one test serves all drivers
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
"""How many examples a round-trip takes."""

texts = st.text(st.characters() | st.sampled_from("\x00\x1a\ud83d\ude00a0"), max_size=60)
"""Any str, surrogates included."""

ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=255)
"""Any id."""

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
"""Any JSON value."""

objects = st.dictionaries(texts, values, max_size=4)
"""Any JSON object."""

messages = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant", "tool"]) | ids,
    content=texts | st.lists(values, max_size=4),
    id=ids,
    tool_calls=st.lists(st.builds(ToolCall, id=texts, name=texts, arguments=texts), max_size=3).map(tuple),
    tool_call_id=st.none() | texts,
    name=st.none() | texts,
    metadata=objects,
    run_id=st.none() | ids,
    created_at=st.datetimes(timezones=st.just(UTC)),
)
"""Any message."""
