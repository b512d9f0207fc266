"""Where a store is: a URL, parsed once, printed without its password."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote

from .errors import ConfigurationError, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# RFC 3986, appendix B, without a fragment. Python's urlsplit refuses [::1] beside other hosts, in some patch releases.
_PARTS = re.compile("(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?:(//)([^/?]*))?([^?]*)(?:[?](.*))?")
_DROPPED = re.compile("^ |[\x00-\x1f\x7f]")
_HOST = re.compile(r"\[[^][]*\](?::.*)?|[^][]*")
_PORT = re.compile("[0-9]{1,5}")
_PERCENT = "Percent-encode special characters: %40 for @, %0A for a newline"


@dataclass(frozen=True, slots=True, repr=False)
class StoreURL:
    """The parts of a database URL, percent-decoded.

    Attributes:
        scheme: In lower case, as given (``postgresql+asyncpg``, say).
        username: None if there is none.
        password: Likewise; neither ``str`` nor ``repr`` shows it.
        hosts: (name, port) pairs; several where a backend takes several.
        path: With its leading slash, as in the URL.
        options: What stands behind the ``?``; a name may come once. ``str`` and ``repr`` show the names alone.
    """

    scheme: str
    username: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "\0" in self.path:
            raise ConfigurationError("the path of the database URL holds a NUL, which no file name can")

    @classmethod
    def parse(cls, text: str) -> StoreURL:
        """Take a URL apart.

        Raises:
            ConfigurationError: It is no URL; the message does not repeat what could be a password.
        """
        if not isinstance(text, str):
            raise ConfigurationError(f"a database URL is a str, not {shown(text)}")
        _check_text(text)
        parts = _PARTS.fullmatch(text)
        if parts is None:
            raise ConfigurationError("the database URL cannot be read", hint=_PERCENT)
        scheme, slashes, netloc, path, query = parts.groups(default="")
        if not scheme:
            raise ConfigurationError("the database URL has no scheme", hint="Write sqlite:///file.db, for example")
        if path and not slashes:
            raise ConfigurationError(
                f"the database URL has no // after {scheme}:",
                hint=f"Write {scheme}:///name for a relative path, {scheme}:////name for an absolute one",
            )
        user, password, hosts = _netloc(netloc)
        return cls(scheme.lower(), user, password, hosts, _unquoted(path), _options(query))

    def __str__(self) -> str:
        """The URL with ``***`` for the password and the values of all options: who knows which of them are secret."""
        return self._text(lambda _secret: "***")

    def __repr__(self) -> str:
        return f"StoreURL({str(self)!r})"

    @property
    def secret(self) -> str:
        """The URL with its password: for drivers, and to tell two stores apart."""
        return self._text(_quoted)

    def _text(self, told: Callable[[str], str]) -> str:
        user = _quoted(self.username or "")
        if self.password is not None:
            user += ":" + told(self.password)
        hosts = ",".join(_host(name, port) for name, port in self.hosts)
        query = "&".join(f"{_quoted(name)}={told(value)}" for name, value in sorted(self.options.items()))
        at = "@" if self.username is not None or self.password is not None else ""
        return f"{self.scheme}://{user}{at}{hosts}{_quoted(self.path, '/')}" + (f"?{query}" if query else "")

    @property
    def is_ephemeral(self) -> bool:
        """Whether the store is in the memory of this process, and ends with it."""
        named = self.hosts or self.username is not None or self.path.strip("/") not in {"", ":memory:"}
        return not named and self.scheme.partition("+")[0] in {"memory", "sqlite"}

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


def _check_text(text: str) -> None:
    """Refuse what others drop in silence, so that two different URLs would be one."""
    if "#" in text:
        raise ConfigurationError("the database URL holds a #, and no store has a fragment", hint="Write %23 for it")
    if _DROPPED.search(text):
        raise ConfigurationError("the database URL begins with a space or holds control characters", hint=_PERCENT)


def _netloc(netloc: str) -> tuple[str | None, str | None, tuple[tuple[str, int | None], ...]]:
    credentials, at, hosts = netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    names = tuple(_host_port(part) for part in hosts.split(",") if part)
    return (_unquoted(user) if at else None), (_unquoted(password) if colon else None), names


def _host_port(text: str) -> tuple[str, int | None]:
    if not _HOST.fullmatch(text):
        raise ConfigurationError("the database URL cannot be read: a host's brackets do not match", hint=_PERCENT)
    name, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # no port, or the end of [::1]
        name, port = text, ""
    if port and not _PORT.fullmatch(port):
        raise ConfigurationError("the database URL has a port that is no number of up to five digits")
    return _unquoted(name.strip("[]")), int(port) if port else None


def _host(name: str, port: int | None) -> str:
    host = f"[{name}]" if ":" in name else _quoted(name)
    return host if port is None else f"{host}:{port}"


# Bytes that are no UTF-8 come and go as surrogates, as in Python's file names, so that no two paths are one.


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe, errors="surrogateescape")


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogateescape")


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True, errors="surrogateescape"):
        if name in options:
            raise ConfigurationError(f"the database URL gives the option {name!r} twice")
        options[name] = value
    return options
