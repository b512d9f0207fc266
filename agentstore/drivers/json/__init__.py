"""The driver for ``json:`` and ``file:``: a folder of JSON lines that a person can read."""

from .backend import JSONBackend

__all__ = ["JSONBackend"]
