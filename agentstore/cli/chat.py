"""`agentstore chat`: a conversation at the terminal, or through a pipe."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import sys
from typing import TYPE_CHECKING

import typer

from agentstore.agent import Agent
from agentstore.database import db
from agentstore.errors import AgentstoreError

from .hints import chat_command
from .keys import from_environment
from .output import complain, counted, print_messages, say, visible

if TYPE_CHECKING:
    from collections.abc import Iterator

_HISTORY = 50
_INTERRUPTED = 128 + 2  # what a shell reports for a process that SIGINT ended


def new_session_id(kind: str) -> str:
    """A fresh session id that a person can type."""
    return f"{kind}-{secrets.token_hex(5)}"


def run(
    database_url: str | None, session: str | None, model: str | None, user: str | None, key_env: list[str] | None = None
) -> None:
    """Chat until the input ends."""
    interactive = sys.stdin.isatty()
    agent = Agent(  # before anything is opened: without a model nothing is left behind
        "Assistant",
        "You are a helpful assistant.",
        model=model,
        db=db(database_url, encryption_key=from_environment(key_env) or None),
        session_id=new_session_id("chat") if session is None else session,
        user_id=user,
    )
    with agent.db:
        _introduce(agent, interactive=interactive)
        for line in _typed() if interactive else _piped():
            if line == "/exit":
                break
            if line == "/history":
                print_messages(agent.history(limit=_HISTORY))
            else:
                _turn(agent, line, interactive=interactive)
    if interactive:
        command = chat_command(agent.session_id, database_url=database_url, model=model, user=user, keys=key_env or ())
        say(f"Resume it with: {command}")


def _introduce(agent: Agent, *, interactive: bool) -> None:
    head = agent.db.sync.session(agent.session_id, user_id=agent.user_id)
    name = shlex.quote(agent.session_id)
    what = f"New session {name}" if head is None else f"Resuming session {name}: {counted(head.message_count)}"
    say(what, err=not interactive)
    if interactive:
        say("/history shows it, /exit or Ctrl-D ends, Ctrl-C interrupts an answer.")


def _piped() -> Iterator[str]:
    return (text for line in sys.stdin if (text := line.strip()))


def _typed() -> Iterator[str]:
    with contextlib.suppress(ImportError):  # Windows has none, and edits lines itself
        import readline  # noqa: F401, PLC0415  input() edits lines through it, once it is there
    while True:
        try:
            text = input("you> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if text:
            yield text


def _turn(agent: Agent, prompt: str, *, interactive: bool) -> None:
    """One turn, its answer printed as it comes. At the terminal an interrupt or an error ends only the turn."""
    if interactive:
        typer.echo("assistant> ", nl=False)
    try:
        with contextlib.closing(agent.stream(prompt)) as pieces:
            for piece in pieces:
                typer.echo(visible(piece), nl=False)
        typer.echo()
    except KeyboardInterrupt:
        say(" [interrupted]", err=not interactive)
        if not interactive:
            raise typer.Exit(_INTERRUPTED) from None
    except AgentstoreError as error:
        typer.echo()
        if not interactive:
            raise
        complain(error)
