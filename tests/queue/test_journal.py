"""Journals that are being written: groups, order, room, ends."""

import os
import resource
import stat
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
from pathlib import Path

import pytest
from journal_kit import ROOM, URL, Told, Toy, folder, replay, segments, until, write

from agentstore import durable
from agentstore.errors import ClosedError, ConflictError, InvalidInputError, UnavailableError
from agentstore.queue.journal import Folder

SMALL = 64 * 1024  # segments of 8 KiB, given up above 1 KiB


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def open_journal(tmp_path, told):
    journals = []

    def begin(journal_id="j", max_bytes=ROOM, on_synced=told, sealer=None):
        journals.append(folder(tmp_path, sealer).create(journal_id, max_bytes, on_synced))
        return journals[-1]

    yield begin
    for journal in journals:
        journal.close()


@pytest.fixture
def syncs(monkeypatch):
    """Counts fdatasync; after `stop` none goes on until `hold` is set, and `fail` of them fail."""

    class Syncs:
        count = fail = 0
        hold = threading.Event()
        waiting = threading.Event()

        @classmethod
        def stop(cls):
            cls.waiting.clear()  # making the folder has set it
            cls.hold.clear()

    Syncs.hold.set()
    real = os.fdatasync

    def fdatasync(number):
        Syncs.count += 1
        Syncs.waiting.set()
        Syncs.hold.wait(30)
        if Syncs.fail:
            Syncs.fail -= 1
            raise OSError(5, "the disk is gone")
        real(number)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    yield Syncs
    Syncs.hold.set()


# --- what is written comes back ---


@pytest.mark.parametrize("sealer", [None, Toy()])
def test_a_round_trip_in_order(tmp_path, told, open_journal, sealer):
    payloads = [b"", b"a", b"\x00" * 100, os.urandom(5000), b"x" * 2**20]
    journal = open_journal(sealer=sealer)
    for position, payload in enumerate(payloads):
        journal.write(payload, f"token {position}", 10 * position)
    path = journal.close()
    assert path == journal.path
    assert told.synced == [f"token {position}" for position in range(5)]
    assert told.threads == {"agentstore-journal-j"}

    [leftover] = folder(tmp_path, sealer).leftovers()
    assert [(r.position, r.payload) for r in leftover.records()] == [(10 * n, p) for n, p in enumerate(payloads)]
    assert (leftover.id, leftover.path, leftover.damage) == ("j", path, [])
    if sealer:
        assert payloads[3] not in segments(path)[0].read_bytes()
    leftover.remove()
    assert not path.exists()
    assert folder(tmp_path).leftovers() == []


def test_records_of_many_segments_and_threads_stay_in_order(tmp_path, told, open_journal):
    journal = open_journal(max_bytes=SMALL)
    guard, count = threading.Lock(), iter(range(2000))

    def work():
        while True:
            with guard:
                position = next(count, None)
                if position is None:
                    return
                journal.write(b"%d" % position * 20, position, position)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert journal.wait(30)
    assert told.synced == list(range(2000))
    assert journal.size == sum(path.stat().st_size for path in segments(journal.close()))
    found, damage = replay(tmp_path)
    assert list(found) == list(range(2000))
    assert all(payload == b"%d" % position * 20 for position, payload in found.items())
    assert damage == []


def test_positions_rise(open_journal):
    journal = open_journal()
    journal.write(b"", None, 5)
    for position in (5, 4):
        with pytest.raises(ValueError, match="5"):
            journal.write(b"", None, position)


def test_one_sync_serves_all_that_waits(told, open_journal, syncs):
    journal = open_journal()
    write(journal, [b"first"], start=0)
    before = syncs.count
    syncs.stop()
    journal.write(b"second", 1, 1)
    assert syncs.waiting.wait(30)
    for position in range(2, 1000):
        journal.write(b"more", position, position)
    assert not journal.wait(0)
    assert told.synced == [0], "nobody may be told before it is on the disk"
    syncs.hold.set()
    assert journal.wait(30)
    assert syncs.count - before == 2
    assert [tokens for tokens, _ in told.groups] == [[0], [1], list(range(2, 1000))]


def test_a_new_segment_is_synced_with_its_folder(open_journal, monkeypatch):
    done = []
    monkeypatch.setattr(durable.os, "fdatasync", lambda _: done.append("file"))
    monkeypatch.setattr(durable.os, "fsync", lambda _: done.append("folder"))
    journal = open_journal()
    done.clear()
    write(journal, [b"a", b"b"])
    assert done == ["file", "folder", "file"]


# --- settling and room ---


def test_what_is_settled_is_removed(open_journal):
    journal = open_journal(max_bytes=SMALL)
    write(journal, [b"x" * 3000] * 12)
    first, *_, last = found = segments(journal.path)
    assert len(found) == 4
    journal.settle(range(4, 13))
    until(lambda: segments(journal.path) == [first])
    until(lambda: journal.size == first.stat().st_size)
    journal.settle([1, 2, 2, 2])
    write(journal, [b"y"], start=13)
    assert first in segments(journal.path)
    assert last not in segments(journal.path)
    journal.settle([3, 13])
    until(lambda: first not in segments(journal.path))
    assert journal.close() is None
    assert not journal.path.exists()


def test_a_small_current_segment_stays_and_a_large_one_goes(open_journal):
    journal = open_journal(max_bytes=SMALL)
    write(journal, [b"x"])
    journal.settle([1])
    write(journal, [b"x" * 2000], start=2)
    assert len(segments(journal.path)) == 1
    journal.settle([2])
    until(lambda: journal.size == 0)
    assert segments(journal.path) == []
    write(journal, [b"z"], start=3)
    assert journal.close() == journal.path


def test_settled_before_it_is_synced(told, open_journal, syncs):
    journal = open_journal()
    syncs.stop()
    journal.write(b"a", 1, 1)
    assert syncs.waiting.wait(30)
    journal.write(b"b", 2, 2)
    journal.settle([1, 2])
    syncs.hold.set()
    assert journal.wait(30)
    assert told.synced == [1, 2]
    assert journal.close() is None


def test_a_segment_that_is_given_up_just_when_a_group_comes(tmp_path, open_journal, syncs):
    journal = open_journal(max_bytes=SMALL)
    syncs.stop()
    journal.write(b"a" * 2000, 1, 1)
    assert syncs.waiting.wait(30)
    journal.write(b"b", 2, 2)
    journal.settle([1])
    syncs.hold.set()
    assert journal.wait(30)
    assert journal.close() == journal.path
    assert replay(tmp_path)[0][2] == b"b"


def test_the_bound_counts_the_disk_and_what_waits(open_journal, syncs):
    journal = open_journal(max_bytes=SMALL)
    write(journal, [b"x" * 20_000])
    assert journal.has_room(40_000)
    assert not journal.has_room(46_000)
    syncs.stop()
    journal.write(b"x" * 20_000, 2, 2)
    assert not journal.has_room(30_000)
    journal.write(b"x" * 10_000, 3, 3)
    assert not journal.has_room(16_000)
    assert 50_000 < journal.size < 51_000
    syncs.hold.set()
    assert journal.wait(30)
    journal.settle([1, 2, 3])
    until(lambda: journal.size == 0)
    assert journal.has_room(65_000)


def test_a_segment_that_cannot_be_removed_is_tried_again(open_journal, monkeypatch, caplog):
    journal = open_journal(max_bytes=SMALL)
    write(journal, [b"x" * 9000] * 2)
    first = segments(journal.path)[0]
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no")))
        journal.settle([1])
        until(lambda: "cannot be removed" in caplog.text)
    journal.settle([2])
    until(lambda: not first.exists())


# --- disks that fail ---


def test_a_full_disk_and_then_room_again(tmp_path, told, open_journal):
    journal = open_journal()
    write(journal, [b"a" * 1000])
    [segment] = segments(journal.path)
    size = segment.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))  # the kernel takes a part, then refuses the rest
    try:
        write(journal, [b"b" * 2**21], start=2)
        assert segment.stat().st_size == size, "the part that was written is taken back"
        write(journal, [b"c"], start=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(journal, [b"d" * 2**21], start=4)
    assert (told.synced, told.failed) == ([1, 3, 4], [2])
    assert isinstance(told.groups[1][1], OSError)
    journal.close()
    assert replay(tmp_path) == ({1: b"a" * 1000, 3: b"c", 4: b"d" * 2**21}, [])


def test_a_disk_too_full_for_a_new_segment(tmp_path, told, open_journal):
    journal = open_journal()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        write(journal, [b"b" * 2**21])
        assert segments(journal.path) == []
        assert journal.size == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    write(journal, [b"c"], start=2)
    assert (told.synced, told.failed) == ([2], [1])
    journal.close()
    assert replay(tmp_path) == ({2: b"c"}, [])


@pytest.fixture(params=[True, False], ids=["cut", "not even cut"])
def cut(request, monkeypatch):
    """Whether a file can be cut after it could not be synced."""
    if not request.param:
        monkeypatch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "no")))
    return request.param


def test_a_sync_that_fails_ends_the_segment(tmp_path, open_journal, syncs, cut):
    told = Told()
    journal = open_journal(on_synced=told)
    write(journal, [b"a"])
    syncs.fail = 1
    write(journal, [b"lost", b"c"], start=2)
    assert (told.synced, told.failed) == ([1, 3], [2])
    assert [path.name for path in segments(journal.path)] == ["00000001.log", "00000002.log"]
    assert (b"lost" in segments(journal.path)[0].read_bytes()) is not cut
    journal.close()
    assert replay(tmp_path) == ({1: b"a", 3: b"c"}, [])


def test_the_first_sync_fails(tmp_path, told, open_journal, syncs):
    journal = open_journal()
    syncs.fail = 2
    write(journal, [b"lost", b"too", b"c"])
    assert (told.synced, told.failed) == ([3], [1, 2])
    journal.close()
    assert replay(tmp_path) == ({3: b"c"}, [])


def test_the_folder_cannot_be_synced(tmp_path, told, open_journal, monkeypatch):
    journal = open_journal()
    with monkeypatch.context() as patch:
        patch.setattr(durable.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(5, "no")))
        write(journal, [b"lost"])
    write(journal, [b"b"], start=2)
    assert (told.synced, told.failed) == ([2], [1])
    journal.close()
    assert replay(tmp_path) == ({2: b"b"}, [])


def test_a_sealer_or_a_listener_that_fails_stops_nobody(tmp_path, open_journal, caplog):
    class Broken(Toy):
        def seal(self, data, aad):
            return super().seal(data, aad) if data != b"bad" else 1 / 0

    told = Told()

    def listen(tokens, error):
        told(tokens, error)
        raise RuntimeError("listener")

    journal = open_journal(sealer=Broken(), on_synced=listen)
    write(journal, [b"a", b"bad", b"c"])
    assert (told.synced, told.failed) == ([1, 3], [2])
    assert isinstance(told.groups[1][1], OSError)
    assert isinstance(told.groups[1][1].__cause__, ZeroDivisionError)
    assert "listener" in caplog.text
    journal.close()
    assert replay(tmp_path, Toy()) == ({1: b"a", 3: b"c"}, [])


# --- the end ---


def test_after_close(open_journal):
    journal = open_journal()
    write(journal, [b"a"])
    assert journal.close() == journal.close() == journal.path
    with pytest.raises(ClosedError, match="journal j was closed"):
        journal.write(b"b", 2, 2)
    journal.settle([1])


def test_close_syncs_what_waits_and_knows_what_failed(tmp_path, told, open_journal, syncs):
    journal = open_journal()
    syncs.fail = 1
    journal.write(b"a", 1, 1)
    assert journal.close() is None
    assert (told.synced, told.failed) == ([], [1])
    assert folder(tmp_path).leftovers() == []


def test_close_leaves_what_is_not_ours(open_journal, caplog):
    journal = open_journal()
    (journal.path / "notes.txt").write_text("mine")
    assert journal.close() is None
    assert [path.name for path in journal.path.iterdir()] == ["notes.txt"]
    assert "somebody keeps other files there" in caplog.text


def test_close_at_the_interpreters_exit(tmp_path):
    code = """
        import atexit, sys
        sys.path.insert(0, sys.argv[2])
        from journal_kit import Told, folder, ROOM
        from pathlib import Path

        told = Told()
        journal = folder(Path(sys.argv[1])).create("j", ROOM, told)

        def end():
            journal.write(b"late", 2, 2)
            print(journal.close() == journal.path, told.synced)

        atexit.register(end)
        journal.write(b"early", 1, 1)
    """
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), tmp_path, os.path.dirname(__file__)],  # noqa: PTH120
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (child.stdout, child.stderr, child.returncode) == ("True [1, 2]\n", "", 0)
    assert replay(tmp_path) == ({1: b"early", 2: b"late"}, [])


# --- who may have it ---


def test_a_live_journal_is_no_leftover(tmp_path, open_journal):
    journal = open_journal()
    write(journal, [b"a"])
    assert folder(tmp_path).leftovers() == []
    journal.close()
    [leftover] = folder(tmp_path).leftovers()
    assert folder(tmp_path).leftovers() == [], "it is adopted"
    leftover.release()
    with pytest.raises(ClosedError):
        next(leftover.records())
    with pytest.raises(ClosedError):
        leftover.remove()
    [again] = folder(tmp_path).leftovers()
    with pytest.raises(ValueError, match="not read to its end"):
        again.remove()
    assert len(list(again.records())) == 1
    again.remove()


def test_names(tmp_path, open_journal):
    open_journal("j")
    with pytest.raises(ConflictError, match="already"):
        open_journal("j")
    for bad in ("", "a/b", "..", "rejected", "quarantine", "store", ".lock", "x" * 65, "é", "a b"):
        with pytest.raises(InvalidInputError, match="journal_id"):
            open_journal(bad)


def test_only_this_user_may_look(tmp_path, open_journal):
    old = os.umask(0)
    try:
        journal = open_journal()
        write(journal, [b"a"])
        folder(tmp_path).reject("j", 1, b"a", "no")
        segment = segments(journal.close())[0]
        segment.write_bytes(b"garbage" * 50)
        replay(tmp_path)
    finally:
        os.umask(old)
    paths = [path for path in tmp_path.rglob("*") if path != tmp_path]
    names = {path.name for path in paths}
    assert {"store", "lock", ".lock", "rejected", "quarantine", "j", "00000001.log"} <= names
    modes = {(path.name, path.is_dir(), oct(stat.S_IMODE(path.stat().st_mode))) for path in paths}
    assert {mode for _, is_dir, mode in modes if is_dir} == {"0o700"}
    assert {mode for _, is_dir, mode in modes if not is_dir} == {"0o600"}


def test_the_store_is_named_without_its_password(tmp_path, open_journal):
    journal = open_journal()
    assert (journal.path.parent / "store").read_text() == f"{URL}\n"
    everything = "".join(str(path) for path in tmp_path.rglob("*")) + f"{URL}"
    assert "hunter2" not in everything


def test_a_folder_that_cannot_be_used(tmp_path):
    (tmp_path / "file").write_text("")
    there = Folder(tmp_path / "file", URL)
    for call in (lambda: there.create("j", ROOM, Told()), lambda: there.reject("j", 1, b"", "no")):
        with pytest.raises(UnavailableError, match="journal_dir") as caught:
            call()
        assert isinstance(caught.value.__cause__, OSError)


def forked(function):
    """Runs `function` in a forked child, which then stays until the pipe it is given ends; what it says."""
    (said, say), (stay, go) = os.pipe(), os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads about: just so
        pid = os.fork()
    if not pid:
        try:
            os.close(go)
            try:
                answer = function()
            except BaseException:  # noqa: BLE001  the parent shows it
                answer = traceback.format_exc()
            os.write(say, f"{answer}".encode())
            os.close(say)
            os.read(stay, 1)
        finally:
            os._exit(0)
    os.close(say)
    os.close(stay)
    with open(said) as file:  # noqa: PTH123  a descriptor
        answer = file.read()

    def end():
        os.close(go)
        os.waitpid(pid, 0)

    return answer, end


def test_a_forked_child_touches_nothing(tmp_path, told, open_journal):
    journal = open_journal()
    write(journal, [b"a"])

    def child():
        with pytest.raises(ClosedError, match="fork"):
            journal.write(b"b", 2, 2)
        journal.settle([1])
        assert journal.wait(0)
        assert journal.close() is None
        names = [str(number.readlink()) for number in Path("/proc/self/fd").iterdir() if number.exists()]
        return [name for name in names if str(tmp_path) in name]

    answer, end = forked(child)
    try:
        assert answer == "[]"
        assert folder(tmp_path).leftovers() == [], "the child did not free the lock"
        write(journal, [b"b"], start=2)
        assert journal.close() == journal.path
        assert replay(tmp_path) == ({1: b"a", 2: b"b"}, []), "the child does not hold the lock"
    finally:
        end()
