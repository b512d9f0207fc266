"""Encryption keys: from the environment or from files, for arguments can be seen by all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable


def from_environment(names: Iterable[str] | None) -> list[str | bytes]:
    """The keys that variables of these names hold.

    Raises:
        ConfigurationError: There is no such variable.
    """
    return [_variable(name) for name in names or ()]


def from_files(paths: Iterable[str] | None) -> list[str | bytes]:
    """The keys that files hold, each without the blanks and line breaks around it.

    Raises:
        ConfigurationError: There is no such file.
    """
    return [_file(path) for path in paths or ()]


def _variable(name: str) -> str:
    key = os.environ.get(name)
    if not key:
        raise ConfigurationError(f"the environment holds no key under the name {name}", hint=f"Set {name} to it")
    return key


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"a key cannot be read: {error}") from error
