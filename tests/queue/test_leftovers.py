"""What a crash leaves: torn ends, damage, other processes."""

import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from journal_kit import ROOM, Told, Toy, folder, left, replay, segments, write

from agentstore.errors import CorruptRecordError, SchemaError
from agentstore.queue.journal import format as layout

HERE = Path(__file__).parent
PAYLOADS = [b"first", b"second" * 5, b"the third"]
ALL = dict(enumerate(PAYLOADS, 1))


def ends(data):
    """Where the header and each record end."""
    header = layout.Header.unpack(data, Path())
    place, found = layout.HEADER_BYTES, [layout.HEADER_BYTES]
    while place < len(data):
        _, place = header.record_at(data, place)
        found.append(place)
    return found


def quarantine(segment):
    return segment.parent.parent / "quarantine"


# --- torn ---


def test_torn_at_every_byte_of_the_last_record(tmp_path, caplog):
    [segment] = left(tmp_path, PAYLOADS)
    whole = segment.read_bytes()
    *_, start, end = ends(whole)
    for size in range(start, end):
        segment.write_bytes(whole[:size])
        assert replay(tmp_path) == ({1: PAYLOADS[0], 2: PAYLOADS[1]}, []), size
    segment.write_bytes(whole)
    assert replay(tmp_path) == (ALL, [])
    assert not caplog.records, "a torn end is nothing to worry about"
    assert not quarantine(segment).exists()


def test_torn_when_it_was_begun(tmp_path):
    [segment] = left(tmp_path, PAYLOADS[:1])
    whole = segment.read_bytes()
    for size in range(len(whole)):
        segment.write_bytes(whole[:size])
        assert replay(tmp_path) == ({}, [])
    segment.write_bytes(bytes(5000))
    assert replay(tmp_path) == ({}, [])
    [leftover] = folder(tmp_path).leftovers()
    assert list(leftover.records()) == []
    leftover.remove()
    assert not segment.parent.exists()


@pytest.mark.parametrize("behind", [b"\0" * 9000, b"\0", b"garbage", random.Random(1).randbytes(9000)])
def test_zeros_and_garbage_behind_the_last_record(tmp_path, behind, caplog):
    [segment] = left(tmp_path, PAYLOADS)
    segment.write_bytes(segment.read_bytes() + behind)
    assert replay(tmp_path) == (ALL, [])
    assert not caplog.records


def test_stale_bytes_of_another_segment_do_not_pass(tmp_path):
    [segment] = left(tmp_path / "a", PAYLOADS)
    [other] = left(tmp_path / "b", [b"old"] * 9)
    segment.write_bytes(segment.read_bytes() + other.read_bytes()[layout.HEADER_BYTES :])
    assert replay(tmp_path / "a") == (ALL, [])


# --- damaged ---


def test_a_flip_at_every_byte_of_a_middle_record(tmp_path, caplog):
    [segment] = left(tmp_path, PAYLOADS)
    whole = segment.read_bytes()
    _, start, end, _ = ends(whole)
    for place in range(start, end):
        bad = bytearray(whole)
        bad[place] ^= 1 << place % 8
        segment.write_bytes(bad)
        caplog.clear()
        found, [damage] = replay(tmp_path)
        assert found == {1: PAYLOADS[0], 3: PAYLOADS[2]}, place
        assert (damage.path, damage.start, damage.end) == (segment, start, end)
        assert damage.copy.parent == quarantine(segment)
        assert damage.copy.read_bytes() == bad[start:end]
        [record] = caplog.records
        assert record.levelname == "ERROR"
        assert str(damage.copy) in record.message


def test_a_flip_at_every_byte_of_the_header(tmp_path):
    [segment] = left(tmp_path, PAYLOADS)
    whole = segment.read_bytes()
    for place in range(layout.HEADER_BYTES):
        bad = bytearray(whole)
        bad[place] ^= 1 << place % 8
        segment.write_bytes(bad)
        found, [damage] = replay(tmp_path)
        assert found == {}
        assert damage.copy.read_bytes() == bad


def test_damage_in_many_segments(tmp_path):
    paths = left(tmp_path, [b"%d" % n * 500 for n in range(1, 9)], max_bytes=8 * 1100)  # two records in each
    assert len(paths) == 4
    first, second, third, last = (path.read_bytes() for path in paths)
    paths[0].write_bytes(first[:-10])  # not the last segment: what it lacks was stored once
    paths[1].write_bytes(b"\0" * len(second))
    paths[2].write_bytes(third[:-10] + bytes(10))
    paths[3].write_bytes(last[:-10])
    found, damage = replay(tmp_path)
    assert list(found) == [1, 5, 7]
    assert [(item.path, item.start) for item in damage] == [
        (paths[0], ends(first)[1]),
        (paths[1], 0),
        (paths[2], ends(third)[1]),
    ]


def test_a_segment_whose_end_is_missing(tmp_path):
    first, second = left(tmp_path, [b"%d" % n * 500 for n in range(1, 5)], max_bytes=8 * 1100)
    whole = first.read_bytes()
    first.write_bytes(whole[: ends(whole)[1]])
    found, [damage] = replay(tmp_path)
    assert list(found) == [1, 3, 4]
    assert (damage.path, damage.start, damage.end) == (first, ends(whole)[1], len(whole))
    assert second.exists()


def test_a_segment_of_another_journal(tmp_path):
    [other] = left(tmp_path, PAYLOADS, "other")
    bytes_of_other = other.read_bytes()
    [leftover] = folder(tmp_path).leftovers()
    list(leftover.records())
    leftover.remove()
    [segment] = left(tmp_path, [b"mine"])
    segment.with_name("00000002.log").write_bytes(bytes_of_other)
    found, [damage] = replay(tmp_path)
    assert found == {1: b"mine"}
    assert "belongs to the journal other" in str(damage)


def test_a_newer_format_is_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(layout, "VERSION", 2)
        [segment] = left(tmp_path, PAYLOADS)
    for _ in range(2):  # the locks were freed
        with pytest.raises(SchemaError, match="Install the newer agentstore") as told:
            folder(tmp_path).leftovers()
        assert str(segment) in str(told.value)
    assert segment.exists()


@pytest.mark.parametrize("sealer", [None, Toy(8)], ids=["no key", "another key"])
def test_sealed_with_another_key(tmp_path, sealer):
    [segment] = left(tmp_path, PAYLOADS, sealer=Toy())
    [leftover] = folder(tmp_path, sealer).leftovers()
    with pytest.raises(CorruptRecordError, match="encryption_key") as caught:
        list(leftover.records())
    assert str(segment.parent) in str(caught.value)
    with pytest.raises(ValueError, match="not read"):
        leftover.remove()
    leftover.release()
    assert replay(tmp_path, Toy()) == (ALL, [])


def test_a_key_given_later_does_not_hide_what_lies_open(tmp_path):
    left(tmp_path, PAYLOADS)
    assert replay(tmp_path, Toy()) == (ALL, [])


# --- whose they are ---


def test_oldest_first_whatever_they_are_called(tmp_path):
    for name in ("c", "a", "b"):
        left(tmp_path, PAYLOADS, name)
    found = folder(tmp_path).leftovers()
    assert [leftover.id for leftover in found] == ["c", "a", "b"]
    assert sorted(found, key=lambda leftover: leftover.created_at) == found


def test_what_died_before_it_stored_anything_is_removed(tmp_path):
    journal = folder(tmp_path).create("j", ROOM, Told())
    (journal.path.parent / "empty").mkdir()
    (journal.path.parent / "a folder of somebody").mkdir()
    assert folder(tmp_path).leftovers() == []
    assert journal.close() is None
    assert sorted(path.name for path in journal.path.parent.iterdir()) == [".lock", "a folder of somebody", "store"]


def test_threads_never_adopt_one_journal_twice(tmp_path):
    names = {f"j{n}" for n in range(20)}
    for name in names:
        left(tmp_path, [b"x"], name)
    found, start = [], threading.Barrier(4)

    def adopt():
        start.wait()
        found.extend(folder(tmp_path).leftovers())

    threads = [threading.Thread(target=adopt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(leftover.id for leftover in found) == sorted(names)


def child(code, *arguments):
    prelude = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nfrom journal_kit import *\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(code), HERE, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


ADOPT = """
    print("ready", flush=True)
    sys.stdin.readline()
    adopted = folder(Path(sys.argv[2])).leftovers()
    print(*(leftover.id for leftover in adopted), flush=True)
    sys.stdin.readline()
"""


def test_processes_never_adopt_one_journal_twice(tmp_path):
    names = {f"j{n}" for n in range(20)}
    for name in names:
        left(tmp_path, [b"x"], name)
    children = [child(ADOPT, tmp_path) for _ in range(2)]
    try:
        for process in children:
            assert process.stdout.readline() == "ready\n"
        for process in children:
            process.stdin.write("go\n")
            process.stdin.flush()
        adopted = [name for process in children for name in process.stdout.readline().split()]
        assert sorted(adopted) == sorted(names)
        assert folder(tmp_path).leftovers() == []
    finally:
        for process in children:
            process.communicate("end\n", timeout=60)
    assert len(folder(tmp_path).leftovers()) == 20, "with their adopters they are free again"


# --- killed ---

KILLED = """
    import os, random, threading

    def told(tokens, error):
        assert error is None, error
        os.write(1, b"".join(b"%d\\n" % token for token in tokens))

    journal = folder(Path(sys.argv[2])).create("j", 2**18, told)
    guard, sizes, position = threading.Lock(), random.Random(int(sys.argv[3])), 0

    def work():
        global position
        while True:
            with guard:
                position += 1
                journal.write(b"%d " % position * sizes.randrange(200), position, position)
            while not journal.has_room(0):
                time.sleep(0.001)
            if position % 16 == 0:
                journal.wait()

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    threading.Event().wait()
"""


@pytest.mark.parametrize("moment", range(20))
def test_what_was_acknowledged_survives_a_kill(tmp_path, moment):
    process = child(KILLED, tmp_path, moment)
    told = [int(process.stdout.readline()) for _ in range(random.Random(moment).randrange(1, 400))]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    process.communicate(timeout=60)
    found, damage = replay(tmp_path)
    assert damage == []
    assert told == list(range(1, len(told) + 1))
    assert list(found) == list(range(1, len(found) + 1))
    assert len(found) >= len(told)
    assert all(payload == b"%d " % position * (payload.count(b" ")) for position, payload in found.items())


# --- refused ---


@pytest.mark.parametrize("sealer", [None, Toy()])
def test_what_the_backend_refused_is_kept(tmp_path, sealer):
    from agentstore.queue.journal import rejected  # noqa: PLC0415
    from agentstore.queue.journal.leftover import unsealed  # noqa: PLC0415

    there = folder(tmp_path, sealer)
    path = there.reject("j", 7, b"payload", "it belongs to somebody else \ud800")
    assert there.reject("j", 7, b"payload", "it belongs to somebody else \ud800") == path
    there.reject("j", 8, b"", "")
    assert path.parent == there.path / "rejected"
    assert [rejected.read(found).record.position for found in sorted(path.parent.iterdir())] == [7, 8]
    body = unsealed(rejected.read(path), sealer, path)
    assert rejected.unpack(body) == ("it belongs to somebody else \ud800", b"payload")
    assert (b"payload" in path.read_bytes()) is (sealer is None)
    data = path.read_bytes()
    for bad in (data[:-1], data + b"x", data[:-1] + b"x", b""):
        path.write_bytes(bad)
        with pytest.raises(CorruptRecordError):
            rejected.read(path)
    assert there.leftovers() == []


def test_reading_holds_one_segment_at_a_time(tmp_path):
    import tracemalloc  # noqa: PLC0415

    journal = folder(tmp_path).create("j", 32 * 2**20, Told())
    write(journal, [b"x" * 2**20] * 24)
    journal.close()
    assert len(segments(journal.path)) == 6
    [leftover] = folder(tmp_path).leftovers()
    tracemalloc.start()
    try:
        assert sum(len(record.payload) for record in leftover.records()) == 24 * 2**20
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
    finally:
        tracemalloc.stop()
