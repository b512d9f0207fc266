"""Marks in the JSON logs, and logs written anew with other texts."""

import json
from dataclasses import replace

import pytest
from json_kit import add, backend, log_of, remove_index, texts

from agentstore.drivers.json import items, names
from agentstore.protocol import Append, Change, DeleteKeys, GetItems, Head, Mark, Read, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio

REWRITER = """
    import asyncio, os, signal, sqlite3, sys
    from dataclasses import replace
    from agentstore.drivers.json import JSONBackend
    from agentstore.options import PoolOptions
    from agentstore.protocol import Head, Read
    from agentstore.url import StoreURL

    store = JSONBackend(StoreURL.parse(f"json:///{sys.argv[1]}"), PoolOptions())
    left = int(sys.argv[2])

    def step(frame, event, function):
        global left
        if event != "c_call":
            return
        of = getattr(function, "__self__", None)
        if getattr(of, "__name__", "") == "posix" and function.__name__ in {"write", "fsync", "replace"}:
            print(function.__name__, flush=True)
        elif not isinstance(of, sqlite3.Connection):
            return
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def rewrite(head, log):
        sys.setprofile(step)
        try:
            return store._conversations.rewrite(replace(head, title="new"), [replace(m, content="new") for m in log])
        finally:
            sys.setprofile(None)

    async def main():
        [head], [log] = await store.heads([Head("s")]), await store.read([Read("s")])
        assert await store._write(rewrite, head, log)
        await store.aclose()

    asyncio.run(main())
"""


async def test_a_rewrite_killed_at_any_step_is_there_whole_or_not_at_all(folder, store, run):
    done, steps, seen = False, 0, set()
    [first] = await store.append([Append("s", (Message("user", "gone"),), mark=Mark("q", 1))])
    await add(store, "s", "two", "three")
    await store.pop("s", 1)
    [head] = await store.heads([Head("s")])
    while not done:
        steps += 1
        other = run(REWRITER, folder, steps)
        out, err = other.communicate(timeout=60)
        assert err == ""
        done = other.returncode == 0
        seen.add(tuple(out.split()))
        [now] = await store.heads([Head("s")])  # by a reader that was there before
        new = now.title == "new"
        expected = ["new", "new"] if new else ["gone", "two"]
        assert now == replace(head, title="new" if new else None)
        assert await texts(store, "s") == expected
        assert ("gone" not in log_of(folder).read_text()) == new
        again = backend(folder)  # and by one that comes afterwards
        assert await texts(again, "s") == expected
        assert list(log_of(folder).parent.iterdir()) == [log_of(folder)]
        await again.append([Append("s", (replace(first[0], seq=None),), mark=Mark("q", 1))])
        assert await texts(again, "s") == expected
        if new and not done:
            [log] = await again.read([Read("s")])
            old = [replace(m, content=c) for m, c in zip(log, ["gone", "two"], strict=True)]
            assert await again.rewrite(head, old)
        await again.aclose()
    assert ("write", "fsync", "replace", "fsync") in seen
    assert steps > 8
    remove_index(folder)
    assert await texts(store, "s") == ["new", "new"]
    assert [m.seq for m in await add(store, "s", "four")] == [5]


async def marked(store):
    """Replays all that was ever marked, which changes nothing."""
    for session_id in ("s", "cleared", "deleted", "rewritten"):
        said = tuple(Message("user", "replay", id=f"{session_id}-{number}") for number in range(2))
        await store.append([Append(session_id, (said[n],), mark=Mark("q", n + 1)) for n in range(2)])
    return await store.write_items(
        [SetItems("n", {"k": 1}, mark=Mark("q", 1)), SetItems("n", {"l": 2}, mark=Mark("q", 2))]
    )


async def everything(store):
    sessions = ("s", "cleared", "deleted", "rewritten")
    return (
        await store.heads([Head(name) for name in sessions]),
        await store.read([Read(name) for name in sessions]),
        await store.get_items([GetItems("n", ("k", "l", "x"))]),
    )


@pytest.mark.parametrize("compacts", [False, True])
async def test_marks_are_in_the_logs(folder, store, monkeypatch, compacts):
    await marked(store)
    await store.pop("s", 1)
    await store.update(Change("s", title="t"))
    await store.clear("cleared")
    await store.delete("deleted")
    [head] = await store.heads([Head("rewritten")])
    assert await store.rewrite(head, [])
    await store.pop("rewritten", 1)
    if compacts:
        monkeypatch.setattr(items, "_SPARED", 0)
        monkeypatch.setattr(items, "_GARBAGE", 0)
    await store.write_items([DeleteKeys("n", ("k",)), SetItems("n", {"x": 1})])
    assert (b'"delete"' in (folder / "state" / names.file_name("n")).read_bytes()) != compacts
    expected = await everything(store)
    remove_index(folder)
    again = backend(folder)
    assert await marked(again) == [0, 0]
    assert await everything(again) == expected
    await again.aclose()


async def test_a_log_says_nothing_of_marks_where_there_are_none(folder, store):
    await add(store, "s", "one")
    await store.write_items([SetItems("n", {"k": 1})])
    await store.append([Append("s", (Message("user", "two"),), mark=Mark("q", 7))])
    await add(store, "s", "three")
    ends = [json.loads(line) for line in log_of(folder).read_text().splitlines() if line.startswith('{"commit"')]
    assert [end.get("marks") for end in ends] == [None, {"q": 7}, None]
    assert "marks" not in (folder / "state" / names.file_name("n")).read_text()
