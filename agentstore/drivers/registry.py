"""Which driver serves a URL. Drivers are named as strings only: importing agentstore imports none of them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from agentstore.options import PoolOptions
    from agentstore.protocol import Backend
    from agentstore.url import StoreURL

ENTRY_POINTS = "agentstore.drivers"
"""The entry-point group for drivers of other packages: name = scheme, object = a `DriverSpec`."""


@dataclass(frozen=True, slots=True)
class DriverSpec:
    """How to get at a driver without importing it.

    Attributes:
        factory: ``module:callable``, called with a `StoreURL` and `PoolOptions`; it does no I/O.
        package: The driver package that must be installed, as imported; None if there is none.
        extra: The extra of agentstore that installs it.
        options: The query options that its URL may carry.
    """

    factory: str
    package: str | None = None
    extra: str | None = None
    options: frozenset[str] = frozenset()


_MEMORY = DriverSpec("agentstore.drivers.memory:MemoryBackend")
_SQLITE = DriverSpec("agentstore.drivers.sqlite:SQLiteBackend", "aiosqlite")
_JSON = DriverSpec("agentstore.drivers.json:JSONBackend", "aiofiles")

_DRIVERS = {
    "memory": _MEMORY,
    "sqlite": _SQLITE,
    "sqlite+aiosqlite": _SQLITE,
    "json": _JSON,
    "file": _JSON,
}

# Known schemes whose drivers are still to be written.
_NOT_YET = dict.fromkeys(("postgresql", "postgres", "postgresql+asyncpg"), "PostgreSQL")
_NOT_YET |= dict.fromkeys(("mysql", "mariadb", "mysql+aiomysql"), "MySQL/MariaDB")
_NOT_YET |= dict.fromkeys(("redis", "rediss", "redis+unix", "redis+cluster", "redis+sentinel"), "Redis")
_NOT_YET |= dict.fromkeys(("mongodb", "mongodb+srv"), "MongoDB")
_NOT_YET |= dict.fromkeys(("clickhouse", "clickhouses"), "ClickHouse")


def find(url: StoreURL) -> DriverSpec:
    """The driver of a URL, checked as far as possible without importing it.

    Raises:
        ConfigurationError: No driver knows the scheme, it does not take one of the options, or its package is missing.
    """
    spec = _DRIVERS.get(url.scheme) or _from_other_packages(url.scheme)
    if spec is None:
        raise ConfigurationError(*_unknown(url.scheme))
    for name in url.options:
        if name not in spec.options:
            accepted = ", ".join(sorted(spec.options)) or "none"
            raise ConfigurationError(f"{url} has the unknown option {name!r}; accepted: {accepted}")
    if spec.package and importlib.util.find_spec(spec.package) is None:
        extra = f"agentstore[{spec.extra}]" if spec.extra else spec.package
        raise ConfigurationError(f"{url} needs the package {spec.package}", hint=f"pip install '{extra}'")
    return spec


def load(url: StoreURL, pool: PoolOptions) -> Backend:
    """A backend for the URL, not opened yet.

    Raises:
        ConfigurationError: As `find`; or its driver needs an object for each event loop, which it cannot have yet.
    """
    module, _, name = find(url).factory.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)(url, pool)
    if backend.loop_bound:
        raise ConfigurationError(f"{url} has a driver that is bound to one event loop, which is not available yet")
    return backend


def _from_other_packages(scheme: str) -> DriverSpec | None:
    import importlib.metadata  # noqa: PLC0415  an eighth of the time that importing agentstore takes

    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        spec = entry.load()
        if not isinstance(spec, DriverSpec):
            raise ConfigurationError(f"the entry point {entry.value!r} for {scheme!r} is no DriverSpec")
        return spec
    return None


def _unknown(scheme: str) -> tuple[str]:
    if scheme in _NOT_YET:
        return (f"{_NOT_YET[scheme]} ({scheme}:) is not available yet; use sqlite, json, file or memory",)
    accepted = ", ".join(sorted(_DRIVERS))
    return (f"no driver knows the URL scheme {scheme!r}; accepted: {accepted}",)
