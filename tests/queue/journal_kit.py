"""What the tests of the journal share."""

import threading
import time

from agentstore.errors import CorruptRecordError
from agentstore.queue.journal import Folder
from agentstore.url import StoreURL

URL = StoreURL.parse("postgresql://ann:hunter2@db.example/talks")
ROOM = 2**30


class Toy:
    """Seals with one byte of a key, and knows its own."""

    def __init__(self, key=7):
        self.key = key

    def seal(self, data, aad):
        return bytes(byte ^ self.key for byte in aad + b"|" + data)

    def unseal(self, data, aad):
        plain = bytes(byte ^ self.key for byte in data)
        if not plain.startswith(aad + b"|"):
            raise CorruptRecordError("another key")
        return plain[len(aad) + 1 :]


class Told:
    """What `on_synced` was told."""

    def __init__(self):
        self.groups = []
        self.threads = set()

    def __call__(self, tokens, error):
        self.groups.append((list(tokens), error))
        self.threads.add(threading.current_thread().name)

    @property
    def synced(self):
        return [token for tokens, error in self.groups if error is None for token in tokens]

    @property
    def failed(self):
        return [token for tokens, error in self.groups if error is not None for token in tokens]


def folder(base, sealer=None, url=URL):
    return Folder(base, url, sealer)


def write(journal, payloads, start=1):
    """Each payload under the next position, which is its token too; one group each."""
    for position, payload in enumerate(payloads, start):
        journal.write(payload, position, position)
        assert journal.wait(30)


def left(base, payloads, journal_id="j", sealer=None, max_bytes=ROOM):
    """A journal that was closed with all of `payloads` outstanding; its segments."""
    journal = folder(base, sealer).create(journal_id, max_bytes, Told())
    write(journal, payloads)
    return segments(journal.close())


def segments(path):
    return sorted(path.glob("*.log"))


def replay(base, sealer=None):
    """The payloads of the one leftover by position, and its damage; it is left where it is."""
    [leftover] = folder(base, sealer).leftovers()
    try:
        return {record.position: record.payload for record in leftover.records()}, leftover.damage
    finally:
        leftover.release()


def until(condition):
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to that within 30 s")
