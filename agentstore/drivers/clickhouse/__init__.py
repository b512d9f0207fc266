"""ClickHouse: inserts only, with versions and tombstones, by its native protocol."""

from .backend import ClickHouseBackend

__all__ = ["ClickHouseBackend"]
