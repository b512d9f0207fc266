"""What a turn costs its caller when the backend takes 200 ms: ``durability="journal"`` and ``"memory"``.

A turn is one append of a 200 B user message and an 800 B assistant message. The backend is SQLite, whose appends sleep
for 200 ms first. Beside each turn, in the same loop, what it is measured against:

- journal: the same bytes appended to a file in the journal's folder, and one fdatasync;
- memory: the same two messages built, and ``json.dumps`` of their role and content.

Run: make bench-deferred. Medians of alternating turns; the journal's folder is the one that --folder names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from agentstore import Message, QueueOptions, db
from agentstore.drivers.sqlite.backend import SQLiteBackend

LATENCY, TURNS = 0.2, 1000
USER, ASSISTANT = "u" * 200, "a" * 800
_append = SQLiteBackend.append


async def _slow_append(self, batch):
    await asyncio.sleep(LATENCY)
    return await _append(self, batch)


def turn():
    return [Message("user", USER), Message("assistant", ASSISTANT)]


def dumped():
    return [json.dumps({"role": message.role, "content": message.content}) for message in turn()]


def synced(file, payload):
    file.write(payload)
    os.fdatasync(file.fileno())


async def timed(folder, durability, other):
    """Medians of a turn, and of `other`."""
    queue = QueueOptions(journal_dir=Path(folder) / "journal")
    ours, theirs = [], []
    async with db(f"sqlite:///{folder}/{durability}.db", durability=durability, queue=queue) as database:
        await database.append("s", turn())
        await database.flush()
        for number in range(TURNS):
            messages = turn()
            start = time.perf_counter()
            await database.append("s", messages)
            between = time.perf_counter()
            other()
            theirs.append(time.perf_counter() - between)
            ours.append(between - start)
            if number % 50 == 0:
                await asyncio.sleep(0)
        await database.flush()
        session = await database.session("s")
        if session is None or session.message_count != 2 * TURNS + 2:
            raise SystemExit(f"messages were lost: {session}")
    return statistics.median(ours), statistics.median(theirs)


async def main(folder):
    SQLiteBackend.append = _slow_append
    with (Path(folder) / "plain").open("ab", buffering=0) as file:
        payload = b"x" * 1300
        ours, fsync = await timed(folder, "journal", lambda: synced(file, payload))
    limit = 2 * fsync + 0.001
    print(f"backend of {LATENCY * 1000:.0f} ms, {TURNS} turns one after the other, medians")
    print(f"journal  {ours * 1e6:8.1f} us a turn; fsync {fsync * 1e6:.1f} us, so at most {limit * 1e6:.1f} us")
    ours, build = await timed(folder, "memory", dumped)
    print(
        f"memory   {ours * 1e6:8.1f} us a turn; build and dumps {build * 1e6:.1f} us   x {ours / build:.2f} (at most 3)"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="on the disk to be measured [default: a temporary folder]")
    with tempfile.TemporaryDirectory(dir=parser.parse_args().folder) as temporary:
        asyncio.run(main(temporary))
