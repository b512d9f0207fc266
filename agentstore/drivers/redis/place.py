"""What a URL says about a Redis: where it is, who we are there, and which keys are ours."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentstore.url import StoreURL

Mode: TypeAlias = Literal["single", "sentinel", "cluster"]

_MODES: Mapping[str, Mode] = {
    "redis": "single",
    "rediss": "single",
    "redis+unix": "single",
    "redis+sentinel": "sentinel",
    "redis+cluster": "cluster",
}
_PORT, _SENTINEL_PORT = 6379, 26379
_TLS_OPTIONS = ("tls_ca", "tls_cert", "tls_key", "tls_verify")
_PREFIX = re.compile(r"[^\s{}*?\[\]\\]{1,100}")
_WORDS = {"true": True, "false": False}


class Address(NamedTuple):
    """One server: a port of a host, or the path of a unix socket, whose port is 0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


@dataclass(frozen=True, slots=True)
class TLS:
    """How connections are encrypted.

    Attributes:
        ca: A file of the authorities to trust; None is the system's.
        cert: A file with the client's own certificate.
        key: A file with its key; None if `cert` holds it too.
        verify: Whether the server's certificate and name are verified.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are; None where the server asks for nothing."""

    username: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Login({self.username!r})"


@dataclass(frozen=True, slots=True)
class Place:
    """The parts of a URL, checked.

    Attributes:
        mode: One server, sentinels that know it, or a cluster.
        addresses: The server; or sentinels, or nodes of the cluster, to begin with.
        login: At the servers.
        sentinel_login: At the sentinels.
        database: Its number.
        tls: None is plain text.
        service: What the sentinels call the server.
        prefix: What all our keys begin with.
        text: The URL without secrets, for messages.
    """

    mode: Mode
    addresses: tuple[Address, ...]
    login: Login
    sentinel_login: Login
    database: int
    tls: TLS | None
    service: str
    prefix: str
    text: str


def parse(url: StoreURL) -> Place:
    """Take a URL apart.

    Raises:
        ConfigurationError: It cannot be right.
    """
    mode = _MODES[url.scheme]
    options = url.options
    sentinel = mode == "sentinel"
    for name in ("sentinel_username", "sentinel_password"):
        if name in options and not sentinel:
            raise ConfigurationError(f"{url} has the option {name}, which belongs to redis+sentinel:")
    path, service, database = url.path.strip("/"), "", options.get("db")
    if "db" in options and url.scheme != "redis+unix":
        raise ConfigurationError(f"{url} has the option db", hint="The number stands in the path: redis://host/0")
    if sentinel:
        service, _, path = path.partition("/")
        if not service:
            raise ConfigurationError(
                f"{url} does not name the service", hint="Write redis+sentinel://host:26379/mymaster"
            )
    if url.scheme != "redis+unix":
        database = path
    return Place(
        mode=mode,
        addresses=_addresses(url, mode),
        login=Login(url.username or None, url.password or None),
        sentinel_login=Login(options.get("sentinel_username"), options.get("sentinel_password")),
        database=_database(url, database, mode),
        tls=_tls(url),
        service=service,
        prefix=_prefix(url),
        text=str(url),
    )


def _addresses(url: StoreURL, mode: Mode) -> tuple[Address, ...]:
    if url.scheme == "redis+unix":
        if url.hosts:
            raise ConfigurationError(f"{url} names a host", hint="Write redis+unix:///path/of/the/socket")
        if not url.path.strip("/"):
            raise ConfigurationError(f"{url} names no socket", hint="Write redis+unix:///path/of/the/socket")
        return (Address(url.path, 0),)
    if mode == "single" and len(url.hosts) > 1:
        raise ConfigurationError(
            f"{url} names several servers", hint="Write redis+cluster: for a cluster, redis+sentinel: for sentinels"
        )
    port = _SENTINEL_PORT if mode == "sentinel" else _PORT
    return tuple(Address(host, given or port) for host, given in url.hosts) or (Address("localhost", port),)


def _database(url: StoreURL, text: str | None, mode: Mode) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 9:  # noqa: PLR2004  what an int32 always takes
        raise ConfigurationError(f"{url}: the database is {text!r}, and Redis has numbers for it", hint="Write /0")
    if mode == "cluster" and int(text):
        raise ConfigurationError(
            f"{url} names the database {int(text)}, and a cluster has only 0",
            hint="The option prefix keeps several stores apart on one cluster",
        )
    return int(text)


def _tls(url: StoreURL) -> TLS | None:
    wanted = _flag(url, "tls", default=url.scheme == "rediss")
    if not wanted and url.scheme == "rediss":
        raise ConfigurationError(f"{url} says tls=false, and rediss: means TLS", hint="Write redis: for plain text")
    given = [name for name in _TLS_OPTIONS if name in url.options]
    if given and not wanted:
        raise ConfigurationError(
            f"{url} has the option {given[0]}, but does not ask for TLS", hint="Write rediss:, or the option tls=true"
        )
    if wanted and url.scheme == "redis+unix":
        raise ConfigurationError(f"{url} asks for TLS on a unix socket, which never leaves this machine")
    if not wanted:
        return None
    ca, cert, key = (url.options.get(name) for name in _TLS_OPTIONS[:3])
    return TLS(ca, cert, key, verify=_flag(url, "tls_verify", default=True))


def _flag(url: StoreURL, name: str, *, default: bool) -> bool:
    value = url.options.get(name)
    if value is None:
        return default
    if value not in _WORDS:
        raise ConfigurationError(f"{url}: the option {name} is neither true nor false")
    return _WORDS[value]


def _prefix(url: StoreURL) -> str:
    prefix = url.options.get("prefix", "agentstore")
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"{url}: the option prefix is empty, longer than 100 characters, or holds a space or one of {{}}*?[]\\"
        )
    return prefix
