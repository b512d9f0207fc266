"""What the commands print: stored text is shown, never obeyed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from agentstore.errors import ConfigurationError
from agentstore.view import text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from agentstore.errors import AgentstoreError
    from agentstore.findings import Finding
    from agentstore.records import Message, Session

# Controls (a terminal obeys them), marks that reverse the order of what follows, and what no encoding takes.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSEEN_OR_BREAK = re.compile(f"[\t\n]|{_UNSEEN.pattern}")

_FIGURES = {"seq", "messages", "position", "records", "bytes", "torn", "damaged"}
_TABLE_WIDTH = 60  # characters that a table of sessions needs


def visible(text: str, *, line: bool = False) -> str:
    """`text` with its control characters spelt out; with `line` also tabs and line breaks."""
    return (_UNSEEN_OR_BREAK if line else _UNSEEN).sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004  what two hex digits hold


def say(text: str, *, err: bool = False) -> None:
    """Print one line, to stderr if `err`."""
    typer.echo(visible(text, line=True), err=err)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object, in ASCII, as any reader takes it."""
    typer.echo(json.dumps(value, indent=2))


def complain(error: AgentstoreError) -> int:
    """Print an error as one line on stderr; the exit code it stands for."""
    say(f"agentstore: {error}", err=True)
    return 2 if isinstance(error, ConfigurationError) else 1


def counted(messages: int) -> str:
    """How many messages, in words."""
    return "1 message" if messages == 1 else f"{messages} messages"


def print_messages(messages: Iterable[Message]) -> None:
    """Print messages as a table."""
    table = _table("seq", "role", "content", "time (UTC)")
    for message in messages:
        table.add_row(str(message.seq), _cell(message.role), _content(message), _time(message.created_at))
    _print(table)


def print_sessions(sessions: Iterable[Session]) -> None:
    """Print sessions as a table; a line each where the columns would have no room."""
    console = Console(highlight=False)
    if console.width < _TABLE_WIDTH and (sessions := list(sessions)):
        for session in sessions:
            say(f"{session.id}: {counted(session.message_count)}, active {_time(session.updated_at)}")
        return
    table = _table("session", "user", "agent", "title", "messages", "active (UTC)")
    for session in sessions:
        names = (session.id, session.user_id, session.agent, session.title)
        table.add_row(*map(_cell, names), str(session.message_count), _time(session.updated_at))
    _print(table)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print what a doctor found: a line each, and below them what to do."""
    table = _table("", "what", "found")
    for finding in findings:
        table.add_row(finding.level, _cell(finding.subject), _cell(finding.value))
    _print(table)
    for finding in findings:
        if finding.advice is not None:
            say(f"{finding.level}, {finding.subject}: {finding.advice}")


def print_rows(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print texts as a table."""
    table = _table(*columns)
    for row in rows:
        table.add_row(*map(_cell, row))
    _print(table)


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in _FIGURES else "left")
    return table


def _print(table: Table) -> None:
    if not table.row_count:
        say("There are none.")
        return
    Console(highlight=False).print(table)


def _cell(text: str | None) -> Text:
    return Text(visible(text or "", line=True))


def _content(message: Message) -> Text:
    """All that a message says; what is no text of it (tool calls, other parts, marks) in lines of its own."""
    lines = [text_of(message)]
    if message.tool_call_id is not None:
        lines.insert(0, f"[answers {message.tool_call_id}]")
    if isinstance(message.content, list):
        lines += [f"[{part.get('type', 'part')}]" for part in message.content if _is_other(part)]
    lines += [f"[calls {call.name}({call.arguments}) as {call.id}]" for call in message.tool_calls]
    if message.metadata.get("interrupted") is True:
        lines.append("[interrupted]")
    return Text(visible("\n".join(line for line in lines if line)))


def _is_other(part: Any) -> bool:
    return isinstance(part, dict) and not isinstance(part.get("text"), str)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
