"""What a command refers to: the store it takes, and commands to type next as they work here."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agentstore.database import DEFAULT_URL
from agentstore.url import StoreURL

if TYPE_CHECKING:
    from collections.abc import Iterable


def chosen(database_url: str | None) -> StoreURL:
    """The URL that `db` takes when it is given this one."""
    return StoreURL.parse(database_url or os.environ.get("AGENTSTORE_DATABASE_URL") or DEFAULT_URL)


def chat_command(
    session_id: str, *, database_url: str | None, model: str | None, user: str | None, keys: Iterable[str] = ()
) -> str:
    """The command that goes on with a session, without the password of its database."""
    options = [("--session", session_id), ("--db", _named(database_url)), ("--model", model), ("--user", user)]
    options += [("--key-env", name) for name in keys]
    return f"{program()} chat " + shlex.join(
        part for name, value in options if value is not None for part in (name, value)
    )


def program() -> str:
    """How to call this very program: by its name, where the shell finds it."""
    if shutil.which("agentstore"):
        return "agentstore"
    script = Path(sys.argv[0])
    if script.stem != "agentstore":
        return f"{shlex.quote(sys.executable)} -m agentstore"
    return shlex.quote(os.path.relpath(script) if script.is_relative_to(Path.cwd()) else str(script))


def _named(database_url: str | None) -> str | None:
    """None where the URL is the one that is taken anyway."""
    if database_url in (None, os.environ.get("AGENTSTORE_DATABASE_URL") or DEFAULT_URL):
        return None
    return str(StoreURL.parse(database_url or DEFAULT_URL))
