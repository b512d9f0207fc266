"""What a URL says: hosts, credentials, TLS, schema. Reading it does no I/O."""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentstore.url import StoreURL

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey")
_WANTED = ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")
_PREPARED = ("auto", "yes", "no")
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer ones off in silence


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads.

    Attributes:
        url: It, for messages: its ``str`` has no password.
        hosts: Names, or folders of Unix sockets, with ports; (None, port) is asyncpg's choice.
        wanted: What a server must be, as libpq's ``target_session_attrs``.
        schema: Where the tables are.
        prepared: Whether statements are prepared: ``auto`` is yes, but not through a pooler.
        application_name: As which the server lists us.
    """

    url: StoreURL
    hosts: tuple[tuple[str | None, int | None], ...]
    wanted: str
    schema: str
    prepared: str
    application_name: str

    @classmethod
    def of(cls, url: StoreURL) -> Target:
        """Read a URL.

        Raises:
            ConfigurationError: It cannot be right.
        """
        options = url.options
        for name, value in (("user", url.username), ("password", url.password), ("path", url.path), *options.items()):
            _check_text(url, name, value or "")
        hosts = _hosts(url)
        usual = "read-write" if len(hosts) > 1 else "any"
        _one_of(url, "sslmode", options.get("sslmode", "prefer"), _SSL_MODES)
        if "sslkey" in options and "sslcert" not in options:
            raise ConfigurationError(f"{url} has sslkey without sslcert")
        return cls(
            url,
            hosts,
            _one_of(url, "target_session_attrs", options.get("target_session_attrs", usual), _WANTED),
            _name(url, "schema", options.get("schema", "public")),
            _one_of(url, "prepared", options.get("prepared", "auto"), _PREPARED),
            options.get("application_name", "agentstore"),
        )

    def arguments(self) -> Mapping[str, Any]:
        """For ``asyncpg.connect``, all but host and port. Files named in the URL are looked for.

        Raises:
            ConfigurationError: They are not there, or nobody says who the user is.
        """
        tls = {name: self.url.options[name] for name in ("sslmode", *_SSL_FILES) if name in self.url.options}
        for name in _SSL_FILES:
            if name in tls and not Path(tls[name]).is_file():
                raise ConfigurationError(f"{self.url}: the file of {name} is not there: {tls[name]}")
        password = self.url.password
        return {
            # asyncpg makes a TLS context of these only where they come in a URL of its own
            "dsn": f"postgresql://?{urlencode(tls)}" if tls else None,
            "user": self.url.username or os.environ.get("PGUSER") or _account(self.url),
            # never None: then asyncpg would read a password file that the URL says nothing of
            "password": os.environ.get("PGPASSWORD", "") if password is None else password,
            "database": self.url.path.removeprefix("/") or None,
            "server_settings": {"application_name": self.application_name},
        }


def _hosts(url: StoreURL) -> tuple[tuple[str | None, int | None], ...]:
    host, port = url.options.get("host"), url.options.get("port")
    if (host is not None or port is not None) and url.hosts:
        raise ConfigurationError(f"{url} names a host twice", hint="Either before the path or as ?host=&port=")
    if port is not None and not (port.isascii() and port.isdigit() and int(port) <= 65_535):  # noqa: PLR2004  as TCP has it
        raise ConfigurationError(f"{url} has a port that is no number up to 65535")
    number = None if port is None else int(port)
    hosts = url.hosts or ((host or None, number),)
    for name, place in hosts:
        if place is not None and not 0 < place <= 65_535:  # noqa: PLR2004  as above
            raise ConfigurationError(f"{url} has the port {place}, which there is not")
        if name == "" or (name and "," in name):
            raise ConfigurationError(f"{url} has a host without a name", hint="Write several as h1:5432,h2:5432")
    return hosts


def _one_of(url: StoreURL, name: str, value: str, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise ConfigurationError(f"{url}: {name} is {value!r}; accepted: {', '.join(accepted)}")
    return value


def _name(url: StoreURL, option: str, value: str) -> str:
    if not 0 < len(value.encode()) <= _LONGEST_NAME:
        raise ConfigurationError(f"{url}: {option} must have 1 to {_LONGEST_NAME} bytes")
    return value


def _check_text(url: StoreURL, name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"the {name} of {url.scheme}:// is no UTF-8") from error
    if "\0" in value:
        raise ConfigurationError(f"the {name} of {url.scheme}:// holds a NUL, which PostgreSQL takes nowhere")


def _account(url: StoreURL) -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError) as error:  # a container whose user has no name
        raise ConfigurationError(f"{url} names no user, and this process has none") from error
