"""Where a store is: a URL, parsed once, printed without its password."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from .errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, repr=False)
class StoreURL:
    """The parts of a database URL, percent-decoded.

    Attributes:
        scheme: In lower case, as given (``postgresql+asyncpg``, say).
        username: None if there is none.
        password: Likewise; neither ``str`` nor ``repr`` shows it.
        hosts: (name, port) pairs; several where a backend takes several.
        path: With its leading slash, as in the URL.
        options: What stands behind the ``?``; a name may come once.
    """

    scheme: str
    username: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> StoreURL:
        """Take a URL apart.

        Raises:
            ConfigurationError: It is no URL; the message does not repeat what could be a password.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"a database URL is a str, not {type(text).__name__}")
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise ConfigurationError(f"the database URL cannot be read: {error}") from None
        if not parts.scheme:
            raise ConfigurationError("the database URL has no scheme", hint="Write sqlite:///file.db, for example")
        user, password, hosts = _netloc(parts)
        return cls(parts.scheme.lower(), user, password, hosts, unquote(parts.path), _options(parts.query))

    def __str__(self) -> str:
        """The URL with ``***`` for the password."""
        return self._text("***")

    def __repr__(self) -> str:
        return f"StoreURL({str(self)!r})"

    @property
    def secret(self) -> str:
        """The URL with its password: for drivers, and to tell two stores apart."""
        return self._text(self.password or "")

    def _text(self, password: str) -> str:
        user = quote(self.username or "", safe="")
        if self.password is not None:
            user += ":" + (password if password == "***" else quote(password, safe=""))  # noqa: S105
        hosts = ",".join(_host(name, port) for name, port in self.hosts)
        query = "&".join(f"{quote(k)}={_masked(k, v, password)}" for k, v in sorted(self.options.items()))
        at = "@" if self.username is not None or self.password is not None else ""
        return f"{self.scheme}://{user}{at}{hosts}{quote(self.path)}" + (f"?{query}" if query else "")

    def file_path(self) -> str | None:
        """The absolute path of a file URL: ``x:///rel`` from the working folder, ``x:////abs``; None if it is empty.

        Raises:
            ConfigurationError: The URL names a host.
        """
        if self.hosts or self.username is not None:
            raise ConfigurationError(
                f"{self} names a host, but {self.scheme} keeps files on this machine",
                hint=f"Use three slashes for a relative path, four for an absolute one: {self.scheme}:///name",
            )
        path = self.path.removeprefix("/")
        if not path:
            return None
        if self.scheme == "file" and os.sep == "/":  # file:///abs is always absolute
            path = "/" + path.lstrip("/")
        return str(Path(path).absolute())


def _netloc(parts: SplitResult) -> tuple[str | None, str | None, tuple[tuple[str, int | None], ...]]:
    credentials, at, hosts = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    names = tuple(_host_port(part) for part in hosts.split(",") if part)
    return (unquote(user) if at else None), (unquote(password) if colon else None), names


def _host_port(text: str) -> tuple[str, int | None]:
    name, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # no port, or the end of [::1]
        name, port = text, ""
    if port and not port.isdigit():
        raise ConfigurationError("the database URL has a port that is no number")
    return unquote(name.strip("[]")), int(port) if port else None


def _host(name: str, port: int | None) -> str:
    shown = f"[{name}]" if ":" in name else quote(name, safe="")
    return shown if port is None else f"{shown}:{port}"


def _masked(name: str, value: str, password: str) -> str:
    hidden = password == "***" and any(word in name.lower() for word in ("pass", "secret", "token", "key"))  # noqa: S105
    return "***" if hidden else quote(value)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise ConfigurationError(f"the database URL gives the option {name!r} twice")
        options[name] = value
    return options
