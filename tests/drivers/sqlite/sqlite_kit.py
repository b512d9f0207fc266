"""What the tests of the SQLite driver share."""

import subprocess
import sys

from agentstore.drivers.sqlite import SQLiteBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL

PATIENT = 30  # seconds for what ends at once unless it is broken


def make(place, **options):
    return SQLiteBackend(StoreURL.parse(f"sqlite:///{place}"), PoolOptions(**options))


def turn(session_id, text="hello"):
    return Append(session_id, (Message("user", text),))


def run_script(source, *args):
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", source, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENT, check=False)
