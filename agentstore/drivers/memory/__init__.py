"""The reference implementation: everything in this process, gone with it."""

from .backend import MemoryBackend

__all__ = ["MemoryBackend"]
