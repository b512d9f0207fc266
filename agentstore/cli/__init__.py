"""The `agentstore` command."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command line and end the process with its exit code: 0, 1 for what went wrong, 2 for wrong usage."""
    from .app import app  # noqa: PLC0415  typer and rich are no concern of who imports a module beside it

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character must not end a command
    app(prog_name="agentstore")
