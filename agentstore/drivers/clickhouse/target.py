"""What the URL says: where the server is, who we are, and whether to use TLS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from agentstore.url import StoreURL

_HERE = {"localhost", "127.0.0.1", "::1"}
PORT, TLS_PORT = 9000, 9440
_FLAGS = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A URL understood. It has no repr: there is a password in it.

    Attributes:
        name: The URL for messages, without secrets.
        host: Name or address.
        port: Of the native protocol.
        user: ``default`` unless given.
        password: Empty if there is none.
        database: ``default`` unless given.
        tls: Whether to use TLS.
        verify: Whether the server's certificate must be good.
        ca_certs: Path of the authorities to trust, instead of the system's; None for those.
    """

    name: str
    host: str
    port: int
    user: str
    password: str
    database: str
    tls: bool
    verify: bool
    ca_certs: str | None

    @property
    def store(self) -> tuple[str, int, str]:
        """What tells this store from others, whoever comes and however this machine is called."""
        host = self.host.lower().strip("[]")
        return "localhost" if host in _HERE else host, self.port, self.database

    def check_files(self) -> None:
        """Read the files for TLS.

        Raises:
            ConfigurationError: They cannot be used.
        """
        if self.ca_certs is None:
            return
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(self.ca_certs)
        except OSError as error:  # an SSLError is one
            raise ConfigurationError(
                f"{self.name}: the file of ca_certs cannot be used ({error})",
                hint="It is the path of a PEM file on this machine",
            ) from error


def target(url: StoreURL) -> Target:
    """What a URL says.

    Raises:
        ConfigurationError: It cannot be right.
    """
    if len(url.hosts) > 1:
        raise ConfigurationError(
            f"{url} names several hosts, but writers of one store have to see what each other wrote",
            hint="Name one server, or the address at which a proxy leads to one at a time",
        )
    database = url.path.removeprefix("/")
    if "/" in database:
        raise ConfigurationError(f"{url}: the name of the database holds a /", hint="Write clickhouse://host/database")
    tls = url.scheme == "clickhouses"
    if url.options and not tls:
        names = " and ".join(sorted(url.options))
        raise ConfigurationError(f"{url}: {names} is about TLS", hint="Write clickhouses: for TLS")
    verify = _FLAGS.get(url.options.get("verify", "true").lower())
    if verify is None:
        raise ConfigurationError(f"{url}: verify must be true or false")
    if not verify and "ca_certs" in url.options:
        raise ConfigurationError(f"{url}: verify=false checks no certificate, so ca_certs would be for nothing")
    for text in (url.username, url.password, database, *url.options.values()):
        _check_utf8(url, text)
    host, port = url.hosts[0] if url.hosts else ("localhost", None)
    return Target(
        name=str(url),
        host=host,
        port=port or (TLS_PORT if tls else PORT),
        user=url.username or "default",
        password=url.password or "",
        database=database or "default",
        tls=tls,
        verify=verify,
        ca_certs=url.options.get("ca_certs"),
    )


def _check_utf8(url: StoreURL, text: str | None) -> None:
    try:
        (text or "").encode()
    except UnicodeEncodeError:  # its text shows what could be the password
        raise ConfigurationError(
            f"{url}: the user, the password, the database or an option is no UTF-8", hint="Percent-encode its UTF-8"
        ) from None
