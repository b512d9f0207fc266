"""The names of JSON files: no two ids share one."""

import os
import unicodedata

import pytest
from json_kit import texts

from agentstore.drivers.json import names
from agentstore.protocol import Append
from agentstore.records import Message

pytestmark = pytest.mark.anyio

ODD_IDS = (
    "A", "a", "a ", "a/b", "a_b", "a b", "a-b", "../x", "..", ".", "con", "NUL", "\N{GRINNING FACE}" * 255, "x" * 255,
    "\u00e9", "e\u0301", "\n", "root", "", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "*", "~", "c:\\x",
)  # fmt: skip


def test_file_names_never_meet_and_stay_inside():
    found = [unicodedata.normalize("NFC", names.file_name(odd)).casefold() for odd in ODD_IDS]
    assert len(set(found)) == len(ODD_IDS)
    for name in found:
        assert name == os.path.basename(name)  # noqa: PTH119  the string is what counts
        assert name.isascii()
        assert len(name) < 100
    assert names.file_name("Chat with Ann/7").startswith("chat-with-ann-7-")


async def test_odd_ids_are_different_sessions(store, folder):
    ids = [odd for odd in ODD_IDS if odd]
    await store.append([Append(odd, (Message("user", odd),)) for odd in ids])
    assert [await texts(store, odd) for odd in ids] == [[odd] for odd in ids]
    inside = {path.parent.name for path in folder.rglob("*") if path.is_file()}
    assert inside <= {"store", "sessions", "state"}
