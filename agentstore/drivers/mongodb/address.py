"""What a MongoDB URL says, checked before anything is connected."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pymongo import uri_parser
from pymongo.errors import PyMongoError

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from agentstore.options import PoolOptions
    from agentstore.url import StoreURL

DEFAULT_DATABASE = "agentstore"

_NO_NAME = re.compile(r'[/\\. "$*<>:|?\0]')  # what servers on some system refuse
_LONGEST_NAME = 63  # bytes
_LONGEST = 2**31 - 1  # milliseconds; beyond 24 days nobody waits
_LAST_PORT = 65_535
_SELECTION = 0.7  # of connect_timeout


def database_name(url: StoreURL) -> str:
    """The database that `url` names, `DEFAULT_DATABASE` if none.

    Raises:
        ConfigurationError: The URL cannot be right, or asks for what would break a guarantee.
    """
    srv = url.scheme == "mongodb+srv"
    if not url.hosts:
        raise ConfigurationError(f"{url} names no host", hint=f"Write {url.scheme}://localhost/{DEFAULT_DATABASE}")
    if srv and (len(url.hosts) > 1 or url.hosts[0][1] is not None):
        raise ConfigurationError(f"{url}: mongodb+srv takes one host name, without a port: DNS has the rest")
    for host, port in url.hosts:
        if port is not None and not 0 < port <= _LAST_PORT:
            raise ConfigurationError(f"{url} has the port {port} for {host}: there are ports from 1 to {_LAST_PORT:,}")
    name = url.path.strip("/") or DEFAULT_DATABASE
    if _NO_NAME.search(name) or len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise ConfigurationError(
            f"{url} names the database {name!r}, and MongoDB allows no such name",
            hint=f'At most {_LONGEST_NAME} bytes, without any of / \\ . space " $ * < > : | ?',
        )
    _check_options(url)
    return name


def _check_options(url: StoreURL) -> None:
    if url.options.get("w") == "0":
        raise ConfigurationError(
            f"{url}: with w=0 the server answers no write, so nobody could know what is stored",
            hint="Leave w out: it is majority",
        )
    if url.options.get("readPreference", "primary") != "primary":
        raise ConfigurationError(
            f"{url}: a readPreference other than primary may miss what this process has just written",
            hint="Leave readPreference out",
        )
    try:
        uri_parser.validate_options(dict(url.options))
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        raise ConfigurationError(f"{url} has an option that MongoDB's driver does not take: {error}") from error


def settings(url: StoreURL, pool: PoolOptions) -> dict[str, Any]:
    """The client's settings beside the URL, whose own options come first."""
    ours: dict[str, Any] = {
        "appName": DEFAULT_DATABASE,
        "w": "majority",
        "journal": True,
        "maxPoolSize": pool.size,
        "maxIdleTimeMS": _millis(pool.max_lifetime),
        "waitQueueTimeoutMS": _millis(pool.timeout),
        "connectTimeoutMS": _millis(selection(pool)),
        "timeoutMS": _millis(pool.statement_timeout),
    }
    return {name: value for name, value in ours.items() if name not in url.options}


def selection(pool: PoolOptions) -> float:
    """Seconds to find a server: a little less than there are, so that the driver says what failed."""
    return pool.connect_timeout * _SELECTION


def _millis(seconds: float) -> int:
    return max(1, min(round(seconds * 1000), _LONGEST))
