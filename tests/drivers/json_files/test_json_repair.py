"""JSON logs that were torn, damaged or edited."""

import pytest
from json_kit import add, backend, log_of, remove_index, texts

from agentstore.drivers.json import lines
from agentstore.errors import CorruptRecordError
from agentstore.protocol import Append, Head, Listing
from agentstore.records import Message

pytestmark = pytest.mark.anyio


async def test_a_torn_end_is_cut_off_at_every_byte(folder, store):
    await add(store, "s", "one", "two")
    before = log_of(folder).read_bytes()
    await add(store, "s", "three", "four")
    after = log_of(folder).read_bytes()
    await store.aclose()
    for end in range(len(before), len(after)):
        log_of(folder).write_bytes(after[:end])
        if end % 3 == 0:
            remove_index(folder)
        again = backend(folder)
        assert await texts(again, "s") == ["one", "two"], end
        if end % 10 in (0, 1):
            assert [m.seq for m in await add(again, "s", "three", "five")] == [3, 4]
            assert await texts(again, "s") == ["one", "two", "three", "five"], end
        await again.aclose()


async def test_a_torn_first_group_is_no_session(folder, store):
    await add(store, "s", "one")
    whole = log_of(folder).read_bytes()
    await store.aclose()
    for end in (1, len(whole) // 2, len(whole) - 1):
        log_of(folder).write_bytes(whole[:end])
        again = backend(folder)
        assert await again.heads([Head("s")]) == [None]
        assert (await again.list_sessions(Listing())).items == ()
        assert [m.seq for m in await add(again, "s", "one")] == [1]
        await again.aclose()


async def test_a_torn_write_of_a_process_that_died_meanwhile(folder, store):
    await add(store, "s", "one")
    with log_of(folder).open("ab") as file:
        file.write(lines.encode(lines.from_message(Message("user", "never committed", seq=2))) + b'{"com')
    assert await texts(store, "s") == ["one"]
    await add(store, "s", "two")
    assert await texts(store, "s") == ["one", "two"]
    assert b"never" not in log_of(folder).read_bytes()


async def test_zeros_that_a_power_cut_leaves_at_the_end_are_cut_off(folder, store):
    await add(store, "s", "one")
    size = log_of(folder).stat().st_size
    await add(store, "s", "two", "three")
    data = bytearray(log_of(folder).read_bytes())
    data[size + 5 : size + 60] = bytes(55)
    await store.aclose()
    log_of(folder).write_bytes(data)
    again = backend(folder)
    assert await texts(again, "s") == ["one"]
    await add(again, "s", "four")
    assert await texts(again, "s") == ["one", "four"]
    await again.aclose()


async def test_a_line_in_the_middle_that_is_no_json_is_reported_and_nothing_else_lost(folder, store):
    await add(store, "s", "one")
    await add(store, "s", "two")
    await add(store, "other", "fine")
    await store.aclose()
    whole = log_of(folder).read_bytes().split(b"\n")
    whole[1] = b'{"role": oops'
    log_of(folder).write_bytes(b"\n".join(whole))
    damaged = log_of(folder).read_bytes()
    again = backend(folder)
    with pytest.raises(CorruptRecordError, match=rf"line 2 of .*{log_of(folder).name}.*backup"):
        await texts(again, "s")
    failed, fine = await again.append([Append("s", (Message("user", "x"),)), Append("other", (Message("user", "y"),))])
    assert isinstance(failed, CorruptRecordError)
    assert fine[0].seq == 2
    assert log_of(folder).read_bytes() == damaged
    whole[1] = whole[1].replace(b'{"role": oops', lines.encode(lines.from_message(Message("user", "1", seq=1)))[:-1])
    log_of(folder).write_bytes(b"\n".join(whole))
    assert await texts(again, "s") == ["1", "two"]
    await again.aclose()


@pytest.mark.parametrize("line", [b"[]", b"1", b'{"what":1}', b'{"role":"user"}', b'{"commit":7}'])
async def test_a_line_that_is_none_of_ours_is_reported(folder, store, line):
    await add(store, "s", "one")
    with log_of(folder).open("ab") as file:
        file.write(line + b'\n{"commit":1}\n')
    with pytest.raises(CorruptRecordError, match=r"line 4 of"):
        await texts(store, "s")
    with pytest.raises(CorruptRecordError):
        await add(store, "s", "two")


async def test_a_line_edited_in_place_is_found_when_read(folder, store):
    await add(store, "s", "one", "two")
    data = log_of(folder).read_bytes()
    with log_of(folder).open("r+b") as file:
        file.write(data.replace(b'"seq":2', b'"seq" 2'))
    with pytest.raises(CorruptRecordError, match="line 3 of"):
        await texts(store, "s")
    with log_of(folder).open("r+b") as file:
        file.write(data.replace(b'"two"', b'"TWO"'))
    assert await texts(store, "s") == ["one", "TWO"]


async def test_a_log_under_a_wrong_name_is_reported(folder, store, caplog):
    await add(store, "s", "one")
    await store.aclose()
    log_of(folder).rename(log_of(folder, "t"))
    again = backend(folder)
    with pytest.raises(CorruptRecordError, match="belongs to 's'"):
        await texts(again, "t")
    assert await texts(again, "s") == []
    assert "is left out" in caplog.text
    await again.aclose()
