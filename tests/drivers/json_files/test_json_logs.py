"""What stands in the JSON logs, and how large they may get."""

import json
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from json_kit import add, log_of, remove_index, texts

from agentstore.drivers.json import items, lines, names
from agentstore.protocol import Append, DeleteKeys, GetItems, Increment, Read, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)

TEXTS = (
    "plain", "\0", "\x1a", "\x1a0041", "\ud83d", "\ud83d\ude00", "\ude00\ud83d", "\\u001ad83d", "\\\x1a", "\\\\\x1a",
    "\u2028\r\n", '"\\', "\x85", "\N{GRINNING FACE}",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_any_text_is_one_line_of_strict_json(text):
    line = lines.encode({text: [text, text + text]})
    assert line.count(b"\n") == 1
    json.loads(line.decode())  # strict: bare control characters are refused
    assert lines.decode(line) == {text: [text, text + text]}


async def test_a_person_can_read_the_log(store, folder):
    await add(store, "s", "Grüße", "😀", user_id="ann", metadata={"k": 1})
    await store.pop("s", 1)
    found = [json.loads(line) for line in log_of(folder).read_text("utf-8").splitlines()]
    assert found[0]["session"]["id"] == "s"
    assert found[0]["session"]["user_id"] == "ann"
    assert [line["content"] for line in found if "role" in line] == ["Grüße", "😀"]
    assert [line["pop"] for line in found if "pop" in line] == [{"from": 2}]
    assert found[-1]["last_seq"] == 3
    assert found[-1]["message_count"] == 1
    assert "Grüße" in log_of(folder).read_text("utf-8")


async def test_bytes_of_the_state_are_readable(store, folder):
    await store.write_items([SetItems("n", {"b": b"\x00\xff", "j": {"b": 1}})])
    text = (folder / "state" / names.file_name("n")).read_text()
    assert '"bytes":"AP8="' in text
    assert '"value":{"b":1}' in text


async def test_deleted_and_cleared_text_is_gone_from_the_disk(store, folder):
    await add(store, "s", "secret-one")
    await store.clear("s")
    assert "secret" not in log_of(folder).read_text()
    await add(store, "s", "secret-two")
    assert await store.delete("s")
    assert "secret" not in log_of(folder).read_text()
    remove_index(folder)
    [message] = await add(store, "s", "new")
    assert message.seq == 4


async def test_a_log_of_garbage_is_compacted(folder, store, monkeypatch):
    monkeypatch.setattr(items, "_SPARED", 1000)
    path = folder / "state" / names.file_name("")
    await store.write_items([SetItems("", {"stays": b"\x00", "short": 1}, SECOND * 1000), SetItems("", {"gone": 1})])
    await store.write_items([DeleteKeys("", ("gone",))])
    sizes = []
    for n in range(1, 101):
        assert await store.write_items([Increment("", "n")]) == [n]
        sizes.append(path.stat().st_size)
    assert max(sizes) < 2000
    expected = await store.get_items([GetItems("", ("stays", "short", "n", "gone"))])
    assert expected[0]["n"].version == 101  # it began above the version of the key that was removed
    remove_index(folder)
    assert await store.get_items([GetItems("", ("stays", "short", "n", "gone"))]) == expected
    assert await store.write_items([SetItems("", {"gone": 1})]) == [2]


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_large_and_many(folder, store):
    before = open_files() if sys.platform == "linux" else 0
    large = "é" * (4 * 2**20)
    await add(store, "large", large)
    assert await texts(store, "large") == [large]
    await store.append([Append(f"many-{n}", (Message("user", str(n)),)) for n in range(300)])
    found = await store.read([Read(f"many-{n}") for n in range(300)])
    assert [m.content for [m] in found] == [str(n) for n in range(300)]
    if sys.platform == "linux":
        assert open_files() - before < 150
