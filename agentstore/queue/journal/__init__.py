"""The write-ahead journal: what the queue accepted, fsynced on this machine until a backend has it.

``<journal_dir>/<store key>/`` holds a folder for each journal (its lock and its segments), ``rejected/`` (what the
backend refused), ``quarantine/`` (what could not be read) and ``store`` (the URL, for people).
"""

from .folder import Folder, journal_dir, store_key
from .format import Record, Sealer
from .leftover import Leftover
from .payloads import decode, encode
from .reading import Damage
from .writer import Journal

__all__ = [
    "Damage",
    "Folder",
    "Journal",
    "Leftover",
    "Record",
    "Sealer",
    "decode",
    "encode",
    "journal_dir",
    "store_key",
]
