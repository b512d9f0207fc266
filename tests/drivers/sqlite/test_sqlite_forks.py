"""A process that forks while it writes: SQLite's locks, its own and those of files, must not follow it."""

import pytest
from sqlite_kit import run_script

PROGRAM = """
import os, signal, sys, threading, warnings
from agentstore import db

warnings.filterwarnings("ignore", "This process .* is multi-threaded")
folder, kind, forks = sys.argv[1], sys.argv[2], int(sys.argv[3])
ours, theirs = (f"{kind}:///{folder}/{name}" for name in ("ours", "theirs"))
database = db(ours)
said, stop = [], threading.Event()

def write(session):
    while not stop.is_set():
        database.sync.append(session, {"role": "user", "content": "x" * 2000})
        said.append(session)

def wait_for(count):
    while len(said) < count:
        if not any(thread.is_alive() for thread in threads):
            raise SystemExit("the writers have died")
        stop.wait(0.001)

def child(number, heard, go):
    signal.alarm(20)  # it would hang
    with db(theirs) as other, db(ours) as same:
        for store in other, same:
            store.sync.append("children", {"role": "user", "content": f"{number} first"})
        os.write(heard[1], b".")
        os.read(go[0], 1)
        for store in other, same:
            store.sync.append("children", {"role": "user", "content": f"{number} second"})

threads = [threading.Thread(target=write, args=(session,), daemon=True) for session in "ab"]
for thread in threads:
    thread.start()
for number in range(forks):
    wait_for(len(said) + 3)
    heard, go = os.pipe(), os.pipe()
    last = number == forks - 1
    pid = os.fork()
    if not pid:
        try:
            child(number, heard, go)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(heard[1])
    if os.read(heard[0], 1) and last:  # the child uses the store by itself then
        stop.set()
        for thread in threads:
            thread.join()
        database.close()
    os.write(go[1], b".")
    assert os.waitpid(pid, 0)[1] == 0, number
with db(ours) as database, db(theirs) as other:
    for session in "ab":
        assert len(database.sync.messages(session)) == said.count(session)
    for store in database, other:
        told = [message.content for message in store.sync.messages("children")]
        assert told == [f"{number} {which}" for number in range(forks) for which in ("first", "second")], told
"""


@pytest.mark.parametrize("kind", ["sqlite", "json"])
def test_a_fork_while_threads_write(tmp_path, kind):
    done = run_script(PROGRAM, str(tmp_path), kind, "5")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_in_memory_outlives_a_fork_and_stays_with_the_parent():
    source = """
import os, warnings
from agentstore import db

warnings.filterwarnings("ignore", "This process .* is multi-threaded")
with db("sqlite://") as database:
    database.sync.state.set("k", 1)
    pid = os.fork()
    if not pid:
        os._exit(db("sqlite://").sync.state.get("k", 0))
    assert os.waitpid(pid, 0)[1] == 0
    assert database.sync.state.get("k") == 1
"""
    done = run_script(source)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_file_that_was_moved_before_a_fork_is_not_made_anew(tmp_path):
    source = """
import os, pathlib, sys, warnings
from agentstore import UnavailableError, db

warnings.filterwarnings("ignore", "This process .* is multi-threaded")
path = pathlib.Path(sys.argv[1])
with db(f"sqlite:///{path}") as database:
    database.sync.state.set("k", 1)
    path.rename(path.with_suffix(".moved"))
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    for call in lambda: database.sync.state.set("k", 2), lambda: database.sync.state.get("k"):
        try:
            call()
        except UnavailableError as error:
            assert "moved" in str(error), error
        else:
            raise SystemExit("it was written elsewhere")
    assert not path.exists()
    path.with_suffix(".moved").rename(path)
    database.sync.state.set("k", database.sync.state.get("k") + 1)
    assert database.sync.state.get("k") == 2
"""
    done = run_script(source, str(tmp_path / "a.db"))
    assert (done.returncode, done.stderr) == (0, "")
