"""`agentstore demo`: what the package is for, in two processes."""

from __future__ import annotations

import os
import subprocess
import sys

import typer

from agentstore.database import DEFAULT_URL, db
from agentstore.errors import ConfigurationError
from agentstore.url import StoreURL

from .chat import new_session_id
from .hints import chat_command
from .output import print_messages, say

_NAME, _COLOUR = "Alice", "teal"
_TOLD = (f"Hello! My name is {_NAME} and my favourite colour is {_COLOUR}.",)
_ASKED = ("What is my name?", "What is my favourite colour?")
_SHOWN = 20


def run(database_url: str, session: str | None) -> None:
    """Talk, end, resume in another process, and show what is stored; exit code 1 if that one did not know."""
    db(database_url)  # opens nothing, but a URL that cannot work is told before anything is shown
    if StoreURL.parse(database_url).scheme == "memory":
        raise ConfigurationError("memory: ends with its process, and the demo is of two", hint=f"Try {DEFAULT_URL}")
    session_id = new_session_id("demo") if session is None else session
    command = chat_command(session_id, database_url=database_url, model="offline", user=None)
    say("1. A process is told something, and ends:")
    _talk(database_url, session_id, command, _TOLD)
    say("")
    say("2. Another process resumes the session, and is asked:")
    name, colour = _talk(database_url, session_id, command, _ASKED)
    with db(database_url) as database:
        messages = database.sync.messages(session_id, limit=_SHOWN)
    say("")
    say("3. The conversation as stored:")
    print_messages(messages)
    if _NAME not in name or _COLOUR not in colour:
        say("agentstore: the second process did not know what the first was told", err=True)
        raise typer.Exit(1)
    say("The second process knew what the first was told. Next, talk to it yourself:")
    say(f"   $ {command}")


def _talk(database_url: str, session_id: str, command: str, prompts: tuple[str, ...]) -> list[str]:
    """Pipe `prompts` through a process of its own that runs `command`; print and give its answers."""
    say(f"   $ {command}")
    process = subprocess.run(  # noqa: S603  this very program
        [sys.executable, "-m", "agentstore", "chat", "--model", "offline", f"--session={session_id}"],
        input="".join(f"{prompt}\n" for prompt in prompts),
        capture_output=True,
        env={**os.environ, "AGENTSTORE_DATABASE_URL": database_url, "PYTHONIOENCODING": "utf-8"},  # no password in argv
        encoding="utf-8",
        check=False,
    )
    for line in process.stderr.splitlines():  # which session it resumes, or what went wrong
        say(f"   {line}" if process.returncode == 0 else line, err=process.returncode != 0)
    if process.returncode:
        raise typer.Exit(process.returncode)
    answers = process.stdout.splitlines()
    for prompt, answer in zip(prompts, answers, strict=True):
        say(f"   you> {prompt}")
        say(f"   assistant> {answer}")
    return answers
