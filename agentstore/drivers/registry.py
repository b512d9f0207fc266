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
        commits: Groups of writes, of different sessions, that it gains by having under way at once.
        in_place: Whether its calls are functions on threads of its own, which a cancelled call leaves behind: then a
            lone caller makes its call itself. Not if they never wait: other tasks must have their turn.
        alone: Why `db` takes no replicas of it, unless the driver is `agentstore.protocol.Replicable`.
    """

    factory: str
    package: str | None = None
    extra: str | None = None
    options: frozenset[str] = frozenset()
    commits: int = 1
    in_place: bool = False
    alone: str = "its driver cannot tell how far a replica has come"


_HERE = "it is on this machine, where nobody copies it"
_MEMORY = DriverSpec("agentstore.drivers.memory:MemoryBackend", alone=_HERE)
_SQLITE = DriverSpec("agentstore.drivers.sqlite:SQLiteBackend", "aiosqlite", in_place=True, alone=_HERE)
_JSON = DriverSpec("agentstore.drivers.json:JSONBackend", "aiofiles", in_place=True, alone=_HERE)

_POSTGRESQL = DriverSpec(
    "agentstore.drivers.postgresql:PostgreSQLBackend",
    "asyncpg",
    "postgres",
    frozenset(
        {
            *("host", "port", "target_session_attrs", "sslmode", "sslrootcert", "sslcert", "sslkey"),
            *("schema", "prepared", "application_name"),
        }
    ),
    commits=2,  # 64 sessions: 1.3 times the turns/s of 1 (deferred ones 1.17, and no more with 4)
)
_MYSQL = DriverSpec(
    "agentstore.drivers.mysql:MySQLBackend",
    "aiomysql",
    "mysql",
    frozenset(["ssl-mode", "ssl-ca", "ssl-cert", "ssl-key", "get-server-public-key", "unix_socket", "pipelining"]),
    commits=2,  # 64 sessions: 1.15 times the turns/s of 1 (deferred ones 1.25, and no more with 4)
)
_REDIS = DriverSpec(
    "agentstore.drivers.redis:RedisBackend",
    "redis",
    "redis",
    frozenset(
        {"prefix", "db", "tls", "tls_ca", "tls_cert", "tls_key", "tls_verify", "sentinel_username", "sentinel_password"}
    ),
    commits=2,  # 64 sessions: 1.46 times the turns/s of 1
)
_MONGODB = DriverSpec(
    "agentstore.drivers.mongodb:MongoDBBackend",
    "motor",
    "mongodb",
    frozenset(
        {
            *("appName", "authMechanism", "authMechanismProperties", "authSource", "directConnection"),
            *("heartbeatFrequencyMS", "journal", "loadBalanced", "localThresholdMS", "readConcernLevel"),
            *("readPreference", "replicaSet", "retryWrites", "srvMaxHosts", "srvServiceName", "tls"),
            *("tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsCAFile", "tlsCRLFile"),
            *("tlsCertificateKeyFile", "tlsCertificateKeyFilePassword", "tlsDisableOCSPEndpointCheck", "tlsInsecure"),
            "w",
        }
    ),
    alone="one URL names a whole replica set, whose primary is read: a secondary may miss what was just written",
)
_CLICKHOUSE = DriverSpec(
    "agentstore.drivers.clickhouse:ClickHouseBackend",
    "asynch",
    "clickhouse",
    frozenset({"ca_certs", "verify"}),
    alone="the copies of a Replicated table are equals, and none tells whether it holds what was written to another",
)

_DRIVERS = {
    "memory": _MEMORY,
    "sqlite": _SQLITE,
    "sqlite+aiosqlite": _SQLITE,
    "json": _JSON,
    "file": _JSON,
    **dict.fromkeys(("postgresql", "postgres", "postgresql+asyncpg"), _POSTGRESQL),
    **dict.fromkeys(("mysql", "mariadb", "mysql+aiomysql"), _MYSQL),
    **dict.fromkeys(("redis", "rediss", "redis+unix", "redis+cluster", "redis+sentinel"), _REDIS),
    **dict.fromkeys(("mongodb", "mongodb+srv"), _MONGODB),
    **dict.fromkeys(("clickhouse", "clickhouses"), _CLICKHOUSE),
}


def find(url: StoreURL) -> DriverSpec:
    """The driver of a URL, checked as far as possible without importing it.

    Raises:
        ConfigurationError: No driver knows the scheme, it does not take one of the options, or its package is missing.
    """
    spec = _DRIVERS.get(url.scheme) or _from_other_packages(url.scheme)
    if spec is None:
        accepted = ", ".join(sorted(_DRIVERS))
        raise ConfigurationError(f"no driver knows the URL scheme {url.scheme!r}; accepted: {accepted}")
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
        ConfigurationError: As `find`.
    """
    module, _, name = find(url).factory.partition(":")
    backend: Backend = getattr(importlib.import_module(module), name)(url, pool)
    return backend


def _from_other_packages(scheme: str) -> DriverSpec | None:
    import importlib.metadata  # noqa: PLC0415  an eighth of the time that importing agentstore takes

    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS, name=scheme):
        spec = entry.load()
        if not isinstance(spec, DriverSpec):
            raise ConfigurationError(f"the entry point {entry.value!r} for {scheme!r} is no DriverSpec")
        return spec
    return None
