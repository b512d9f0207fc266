"""Conversations and state in one SQLite file, shared safely by many threads and processes."""

from .backend import SQLiteBackend

__all__ = ["SQLiteBackend"]
