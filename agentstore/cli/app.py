"""The commands and their options."""

from __future__ import annotations

import importlib.metadata
import shlex
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

import typer
from typer.core import TyperGroup

from agentstore.database import DEFAULT_URL, Database, db
from agentstore.errors import AgentstoreError, SessionNotFoundError

from . import chat as chatting
from . import demo as demonstration
from . import doctor as examination
from . import journal as journals
from . import rekey as rekeying
from .hints import chosen, program
from .keys import from_environment, from_files
from .output import complain, counted, print_json, print_messages, print_sessions, say


class _Commands(TyperGroup):
    """All commands; an error of ours ends one with a line on stderr instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except AgentstoreError as error:
            raise typer.Exit(complain(error)) from error
        except UnicodeDecodeError as error:
            say(f"agentstore: the input is no {error.encoding} text: {error.reason}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    help="Conversations and state of AI agents, kept on the database you already run.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(journals.app, name="journal")

_Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        metavar="URL",
        help="Where conversations live [default: $AGENTSTORE_DATABASE_URL, else sqlite:///agentstore.db]",
    ),
]
_User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Who asks: sees only what is theirs")]
_Key = Annotated[
    list[str] | None,
    typer.Option("--key-env", metavar="NAME", help="Variable that holds the encryption key; again for older ones"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else")]


_Workload = StrEnum("_Workload", ["append", "sequential", "resume", "long", "state", "agent", "mixed"])
_Durability: TypeAlias = Literal["commit", "journal", "memory"]
_Other: TypeAlias = Literal["raw"]


def _to_look_into(database_url: str | None, key_env: list[str] | None) -> Database:
    """The Database; an empty one in memory where its file is not there, which looking must not make."""
    wanted = db(
        database_url, "memory:", encryption_key=from_environment(key_env) or None
    )  # opens nothing, and state is not asked for
    return db("memory:", "memory:") if examination.absent(chosen(database_url)) else wanted


def _print_version(wanted: bool) -> None:  # noqa: FBT001  typer calls it so
    if wanted:
        say(f"agentstore {importlib.metadata.version('agentstore')}")
        raise typer.Exit


@app.callback()
def _main(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end")
    ] = False,
) -> None:
    del version  # its callback has done the work


@app.command()
def chat(
    *,
    session: Annotated[
        str | None, typer.Option("--session", metavar="ID", help="Resume it [default: a new one]")
    ] = None,
    database_url: _Db = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help='"offline" or "openai:NAME" [default: $AGENTSTORE_MODEL]'),
    ] = None,
    user: _User = None,
    key_env: _Key = None,
) -> None:
    """Talk to an agent that remembers.

    Where the input is no terminal, each line of it is a prompt, and only the answers go to the output.
    """
    chatting.run(database_url, session, model, user, key_env)


@app.command()
def demo(
    *,
    session: Annotated[str | None, typer.Option("--session", metavar="ID", help="[default: a new one]")] = None,
    database_url: Annotated[
        str, typer.Option("--db", metavar="URL", help="Where the conversation lives")
    ] = DEFAULT_URL,
) -> None:
    """See a conversation survive its process, offline."""
    demonstration.run(database_url, session)


@app.command()
def doctor(
    database_url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="[default: $AGENTSTORE_DATABASE_URL, else sqlite:///agentstore.db]"),
    ] = None,
    *,
    as_json: _Json = False,
) -> None:
    """Examine a store: server, schema, durability, clock, rights; exit code 1 if it is unfit or out of reach.

    A message and a key are written under names of their own, read, and deleted again.
    """
    examination.run(database_url, as_json=as_json)


@app.command()
def bench(
    *,
    urls: Annotated[
        list[str] | None,
        typer.Option("--url", metavar="URL", help="A store; again for others [default: a temporary SQLite file]"),
    ] = None,
    workloads: Annotated[
        list[_Workload] | None,
        typer.Option("--workload", metavar="NAME", help=f"{', '.join(_Workload)}; again for others [default: append]"),
    ] = None,
    sessions: Annotated[int | None, typer.Option("--sessions", min=1, help="How many at once")] = None,
    turns: Annotated[int | None, typer.Option("--turns", min=1, help="Of each session, in each sample")] = None,
    messages: Annotated[
        int | None, typer.Option("--messages", min=1, help="Of each session that is read [default for long: 20000]")
    ] = None,
    durability: Annotated[_Durability, typer.Option("--durability", help="As of db()")] = "commit",
    compare: Annotated[
        _Other | None, typer.Option("--compare", help="The same work on the bare driver, in turns")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Samples of each side")] = 5,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="The longest that a sample may take")] = 2.0,
    force: Annotated[bool, typer.Option("--force", help="Also in a store that holds something")] = False,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE", help="Measure and draw curves, into a .png or .html file")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure a store, beside the same work on its bare driver; it must be empty, and is left so.

    Absolute figures mean nothing on another machine: look at the ratios, medians over repeats that alternate.
    """
    from agentstore.bench.kit import Options  # noqa: PLC0415  what only this command needs

    from . import bench as benchmark  # noqa: PLC0415

    options = Options(sessions, turns, messages, durability, compare == "raw", repeats, seconds, force)
    benchmark.run(
        urls or (), [work.value for work in workloads or (_Workload.append,)], options, as_json=as_json, plot=plot
    )


@app.command()
def rekey(
    database_url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="[default: $AGENTSTORE_DATABASE_URL, else sqlite:///agentstore.db]"),
    ] = None,
    *,
    old_key_env: Annotated[
        list[str] | None,
        typer.Option(
            "--old-key-env", metavar="NAME", help="Variable that holds a key in use; none: the store is plain"
        ),
    ] = None,
    old_key_file: Annotated[
        list[str] | None, typer.Option("--old-key-file", metavar="PATH", help="File that holds a key in use")
    ] = None,
    new_key_env: Annotated[
        str | None, typer.Option("--new-key-env", metavar="NAME", help="Variable that holds the new key")
    ] = None,
    new_key_file: Annotated[
        str | None, typer.Option("--new-key-file", metavar="PATH", help="File that holds the new key")
    ] = None,
    decrypt: Annotated[bool, typer.Option("--decrypt", help="Make it plain, in place of a new key")] = False,
    as_json: _Json = False,
) -> None:
    """Encrypt a store with a new key, and verify it; exit code 1 if something is left. Safe to repeat.

    Give the programs that use it the new key first and the old ones behind it, then run this, then drop the old keys.
    A store for the state alone is one more run.
    """
    old = from_environment(old_key_env) + from_files(old_key_file)
    new = from_environment([new_key_env] if new_key_env else ()) + from_files([new_key_file] if new_key_file else ())
    rekeying.run(database_url, old, new, decrypt=decrypt, as_json=as_json)


@app.command()
def sessions(
    *,
    database_url: _Db = None,
    user: _User = None,
    agent: Annotated[str | None, typer.Option("--agent", metavar="NAME", help="Only those that it began")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most")] = 50,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on behind the page that named it")] = None,
    key_env: _Key = None,
    as_json: _Json = False,
) -> None:
    """List sessions, the latest active first."""
    with _to_look_into(database_url, key_env) as database:
        page = database.sync.sessions(user_id=user, agent=agent, limit=limit, cursor=cursor)
    if as_json:
        print_json(page.to_dict())
        return
    print_sessions(page.items)
    if page.next_cursor is not None:
        say(f"There are more: add --cursor {page.next_cursor}")


@app.command()
def show(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its id, exactly")],
    *,
    database_url: _Db = None,
    user: _User = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most: the newest")] = 50,
    key_env: _Key = None,
    as_json: _Json = False,
) -> None:
    """Show a session's messages."""
    with _to_look_into(database_url, key_env) as database:
        head = database.sync.session(session, user_id=user)
        if head is None:
            raise SessionNotFoundError(f"there is no session {session!r}", hint=f"{program()} sessions lists them")
        messages = database.sync.messages(session, limit=limit, user_id=user)
    if as_json:
        print_json({"session": head.to_dict(), "messages": [message.to_dict() for message in messages]})
        return
    owner = "no owner" if head.user_id is None else f"owner {head.user_id}"
    say(f"Session {shlex.quote(head.id)}, {owner}, begun by {head.agent or 'no agent'}: {counted(head.message_count)}")
    print_messages(messages)
    if len(messages) < head.message_count:
        say(f"These are the newest {len(messages)}: --limit shows more")
