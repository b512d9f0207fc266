"""How a process may end: what it had accepted is stored, or journalled for the next one."""

import asyncio
import signal
import subprocess
import sys
import threading

import pytest
from queue_kit import said

from agentstore import QueueOptions, db
from agentstore.queue.journal import survey

pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, os, signal, sys, threading, time
from agentstore import QueueOptions, db
from agentstore.drivers.sqlite.backend import SQLiteBackend

folder, durability, how = sys.argv[1:]
slow, plain = how.startswith("slow"), SQLiteBackend.append

async def append(self, batch):
    while slow:
        await asyncio.sleep(0.01)
    return await plain(self, batch)

SQLiteBackend.append = append
queue = QueueOptions(journal_dir=f"{folder}/journal", close_timeout=0.2 if slow else 10.0)
database = db(f"sqlite:///{folder}/store.db", durability=durability, queue=queue)

async def work():
    for number in range(20):
        await database.append("s", {"role": "user", "content": str(number)})
        await database.state.set("k", number)
        begun.set()

begun = threading.Event()
if how == "thread":
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    begun.wait()  # Python 3.12 starts no thread once the main one has ended, and a Database needs its own
elif how == "sync":
    for number in range(20):
        database.sync.append("s", {"role": "user", "content": str(number)})
    database.sync.state.set("k", 19)
else:
    asyncio.run(work())
print("accepted", flush=True)
if how == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "error":
    raise SystemExit("an error")
"""


def run(tmp_path, durability, how):
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path), durability, how]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


async def stored(tmp_path):
    async with db(f"sqlite:///{tmp_path}/store.db", queue=QueueOptions(journal_dir=tmp_path / "journal")) as database:
        return await said(database), await database.state.get("k"), database.stats().queue.replayed


ALL = [str(number) for number in range(20)]


@pytest.mark.parametrize("how", ["plain", "thread", "sync", "error"])
@pytest.mark.parametrize("durability", ["memory", "journal"])
async def test_an_exit_stores_what_was_accepted(tmp_path, durability, how):
    done = run(tmp_path, durability, how)
    assert (done.stdout, done.returncode) == ("accepted\n", int(how == "error")), done.stderr
    assert done.stderr == ("an error\n" if how == "error" else "")
    assert survey.survey(tmp_path / "journal") == []
    assert await stored(tmp_path) == (ALL, 19, 0)


@pytest.mark.parametrize("how", ["slow", "slow sync"])
@pytest.mark.parametrize("durability", ["memory", "journal"])
async def test_an_exit_journals_what_it_cannot_store(tmp_path, durability, how):
    done = run(tmp_path, durability, how)
    assert (done.stdout, done.returncode) == ("accepted\n", 0), done.stderr
    (left,) = survey.survey(tmp_path / "journal")
    assert "accepted writes are not stored yet: they are kept in" in done.stderr
    assert str(left.path) in done.stderr
    texts, value, replayed = await stored(tmp_path)
    assert (texts, value) == (ALL, 19)
    assert replayed >= 20
    assert survey.survey(tmp_path / "journal") == []


async def test_a_kill_leaves_the_journal(tmp_path):
    done = run(tmp_path, "journal", "kill")
    assert (done.stdout, done.returncode) == ("accepted\n", -signal.SIGKILL), done.stderr
    texts, value, _ = await stored(tmp_path)
    assert (texts, value) == (ALL, 19)


async def test_a_loop_that_ends_takes_nothing_with_it(tmp_path):
    url, queue = f"sqlite:///{tmp_path}/store.db", QueueOptions(journal_dir=tmp_path / "journal")
    database = db(url, durability="memory", queue=queue)

    async def work(name):
        for number in range(50):
            await database.append(name, {"role": "user", "content": str(number)})

    threads = [threading.Thread(target=lambda name=name: asyncio.run(work(name))) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    await database.flush()
    for name in "abc":
        assert [m.seq for m in await database.messages(name)] == list(range(1, 51))
    await database.aclose()


def test_a_forked_child_has_its_own_queue(tmp_path):
    program = """
import os, sys, warnings
from agentstore import QueueOptions, UnavailableError, db
warnings.simplefilter("ignore")
def make():
    return db(f"sqlite:///{sys.argv[1]}/store.db", durability="journal", queue=QueueOptions(journal_dir=sys.argv[1]))
database = make()
database.sync.append("s", {"role": "user", "content": "parent"})
child = os.fork()
if child:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    database.sync.append("s", {"role": "user", "content": "parent again"})
    database.close()
    sys.exit(code)
try:
    database.sync.append("s", {"role": "user", "content": "child"})
except UnavailableError as error:
    assert "before a fork" in str(error)
else:
    sys.exit(1)
with make() as fresh:
    fresh.sync.append("c", {"role": "user", "content": "child"})
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with db(f"sqlite:///{tmp_path}/store.db") as database:
        assert [m.content for m in database.sync.messages("s")] == ["parent", "parent again"]
        assert [m.content for m in database.sync.messages("c")] == ["child"]
    assert survey.survey(tmp_path) == []
