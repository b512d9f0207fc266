"""What the URL says: where the server is, who we are, and how far TLS is to be trusted."""

from __future__ import annotations

import enum
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentstore.url import StoreURL

PORT = 3306
_TRUE, _FALSE = {"1", "true", "on", "yes"}, {"0", "false", "off", "no"}


class TLS(enum.Enum):
    """MySQL's ``ssl-mode``, in its words."""

    DISABLED = "DISABLED"
    PREFERRED = "PREFERRED"
    REQUIRED = "REQUIRED"
    VERIFY_CA = "VERIFY_CA"
    VERIFY_IDENTITY = "VERIFY_IDENTITY"

    @property
    def insists(self) -> bool:
        """Whether a connection without TLS is refused."""
        return self not in {TLS.DISABLED, TLS.PREFERRED}


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """A URL understood. It has no repr: there is a password in it.

    Attributes:
        name: The URL for messages, without secrets.
        hosts: (name, port) in the order in which to try them; none for a socket.
        unix_socket: The path of the server's socket, or None.
        user: As the server knows him.
        password: Empty if there is none.
        database: Its name.
        tls: How far to go for TLS.
        ca: Path of the authorities to trust, as ``cert`` and ``key`` of what to show; None for none.
        asks_for_key: Whether to take the key that encrypts the password from a server that nothing vouches for.
        pipelines: Whether a command may follow another before the first is answered, which some proxies do not pass on.
    """

    name: str
    hosts: tuple[tuple[str, int], ...]
    unix_socket: str | None
    user: str
    password: str
    database: str
    tls: TLS
    ca: str | None
    cert: str | None
    key: str | None
    asks_for_key: bool
    pipelines: bool

    def context(self) -> ssl.SSLContext | None:
        """What to check of a server's certificate; None for no TLS. Reads the files.

        Raises:
            ConfigurationError: A file cannot be read, or is not what it should be.
        """
        if self.tls is TLS.DISABLED or self.unix_socket is not None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = self.tls is TLS.VERIFY_IDENTITY
        context.verify_mode = ssl.CERT_REQUIRED if self.tls in {TLS.VERIFY_CA, TLS.VERIFY_IDENTITY} else ssl.CERT_NONE
        try:
            if self.ca is not None:
                context.load_verify_locations(self.ca)
            elif context.verify_mode is ssl.CERT_REQUIRED:
                context.load_default_certs()
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # an SSLError is one
            raise ConfigurationError(
                f"{self.name}: the files for TLS cannot be used ({error})",
                hint="ssl-ca, ssl-cert and ssl-key are paths of PEM files on this machine",
            ) from error
        return context


def settings(url: StoreURL) -> Settings:
    """What a URL says.

    Raises:
        ConfigurationError: It cannot be right.
    """
    database = url.path.removeprefix("/")
    if not database:
        raise ConfigurationError(f"{url} names no database", hint=f"Write {url.scheme}://user:password@host/database")
    options = url.options
    socket = options.get("unix_socket")
    if socket is not None and any(host not in {"", "localhost"} for host, _ in url.hosts):
        raise ConfigurationError(f"{url} names a host and a unix_socket", hint="Leave one of them out")
    for text in (url.username, url.password, database, *options.values()):
        if text is not None and not text.isascii():
            _check_utf8(url, text)
    tls = _tls(url, options)
    if socket is not None and tls.insists:
        raise ConfigurationError(f"{url}: a Unix socket has no TLS, and needs none", hint="Leave ssl-mode out")
    return Settings(
        name=str(url),
        hosts=()
        if socket is not None
        else tuple((host, port or PORT) for host, port in url.hosts or [("localhost", None)]),
        unix_socket=socket,
        user=url.username or "",
        password=url.password or "",
        database=database,
        tls=tls,
        ca=options.get("ssl-ca"),
        cert=options.get("ssl-cert"),
        key=options.get("ssl-key"),
        asks_for_key=_flag(url, "get-server-public-key", "false"),
        pipelines=_flag(url, "pipelining", "true"),
    )


def _tls(url: StoreURL, options: Mapping[str, str]) -> TLS:
    if "ssl-key" in options and "ssl-cert" not in options:
        raise ConfigurationError(f"{url} has an ssl-key without its ssl-cert")
    given = options.get("ssl-mode")
    if given is None:  # as MySQL's own clients: whoever names authorities wants them asked
        return TLS.VERIFY_CA if "ssl-ca" in options else TLS.PREFERRED
    try:
        tls = TLS(given.upper())
    except ValueError:
        accepted = ", ".join(mode.value for mode in TLS)
        raise ConfigurationError(f"{url} has an unknown ssl-mode; accepted: {accepted}") from None
    if "ssl-ca" in options and tls in {TLS.DISABLED, TLS.PREFERRED, TLS.REQUIRED}:
        raise ConfigurationError(
            f"{url}: ssl-mode={tls.value} checks no certificate, so ssl-ca would be for nothing",
            hint="Write ssl-mode=VERIFY_IDENTITY (or VERIFY_CA), or leave ssl-ca out",
        )
    return tls


def _flag(url: StoreURL, name: str, default: str) -> bool:
    given = url.options.get(name, default).lower()
    if given not in _TRUE | _FALSE:
        raise ConfigurationError(f"{url}: {name} must be true or false")
    return given in _TRUE


def _check_utf8(url: StoreURL, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # its text shows what could be the password
        raise ConfigurationError(
            f"{url}: the user, the password, the database or an option is no UTF-8", hint="Percent-encode its UTF-8"
        ) from None
