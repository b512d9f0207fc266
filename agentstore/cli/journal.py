"""`agentstore journal`: what processes accepted and their backend has not got yet, or refused."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentstore.errors import AgentstoreError, CorruptRecordError, InvalidInputError
from agentstore.keyring import Keyring
from agentstore.layers.assembly import Settings, Side
from agentstore.options import QueueOptions
from agentstore.protocol import SetItems
from agentstore.queue.journal import Damage, decode, journal_dir
from agentstore.queue.journal.rejected import unpack
from agentstore.queue.journal.survey import Seen, survey
from agentstore.records import utcnow
from agentstore.url import StoreURL

from .keys import from_environment
from .output import print_json, print_rows, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentstore.protocol import Append
    from agentstore.queue.journal.reading import Found

_SHOWN = 200  # characters of a text that `show` prints; --json has them all

app = typer.Typer(help="Look at the journals of deferred writes.", no_args_is_help=True, rich_markup_mode=None)

_Dir = Annotated[
    Path | None,
    typer.Option("--dir", metavar="PATH", help="QueueOptions.journal_dir [default: as db() takes it without one]"),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else")]
_COUNTED = ("records", "torn", "damaged")


@app.command()
def ls(*, folder: _Dir = None, as_json: _Json = False) -> None:
    """List journals, the oldest first: live ones, dead ones that wait to be replayed, and what a backend refused."""
    journals = [{**_named(seen), **_counts(seen), "bytes": seen.size} for seen in survey(journal_dir(folder))]
    if as_json:
        print_json({"journals": journals})
        return
    columns = ("journal", "store", "state", "records", "bytes", "age")
    print_rows(columns, ([str(journal[name]) for name in columns] for journal in journals))


@app.command()
def show(
    journal: Annotated[str, typer.Argument(metavar="JOURNAL", help="Its id, as ls prints it")],
    *,
    folder: _Dir = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many at most: the oldest")] = 50,
    as_json: _Json = False,
) -> None:
    """Show the records of a journal, and those that were refused."""
    found = _called(journal, folder)
    entries = list(islice(chain.from_iterable(map(_entries, found)), limit + 1))
    if as_json:
        print_json({"journal": journal, "records": entries[:limit]})
        return
    print_rows(("position", "state", "what", "of", "content"), map(_row, entries[:limit]))
    if len(entries) > limit:
        say("There are more: --limit shows them")


@app.command()
def verify(
    journal: Annotated[str | None, typer.Argument(metavar="[JOURNAL]", help="[default: all]")] = None,
    *,
    folder: _Dir = None,
    as_json: _Json = False,
) -> None:
    """Read every record; exit code 1 if something is damaged. A torn end is none: it was never acknowledged."""
    found = survey(journal_dir(folder)) if journal is None else _called(journal, folder)
    journals = [{**_named(seen), **_counts(seen)} for seen in found]
    damaged = any(counts["damaged"] for counts in journals)
    if as_json:
        print_json({"intact": not damaged, "journals": journals})
    else:
        columns = ("journal", "state", *_COUNTED)
        print_rows(columns, ([str(counts[name]) for name in columns] for counts in journals))
        for place in (place for counts in journals for place in counts["places"]):
            say(place)
    if damaged:
        raise typer.Exit(1)


@app.command()
def replay(
    url: Annotated[str, typer.Argument(metavar="URL", help="The store whose journals they are")],
    *,
    refused: Annotated[
        bool,
        typer.Option("--refused", help="Try again what the backend refused, too; a set replaces what is there"),
    ] = False,
    folder: _Dir = None,
    key_env: Annotated[
        list[str] | None,
        typer.Option("--key-env", metavar="NAME", help="Variable that holds the encryption key; again for older ones"),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Store what dead processes have left in their journals, as every opening of the store does.

    Exit code 1 if the backend still refuses something.
    """
    keys = from_environment(key_env)
    settings = Settings(keyring=Keyring(keys) if keys else None, queue=QueueOptions(journal_dir=folder))
    side = Side(StoreURL.parse(url), settings)
    replayed, stored, reasons = asyncio.run(_replayed(side, refused=refused))
    if as_json:
        print_json({"replayed": replayed, "stored": stored, "refused": [str(reason) for reason in reasons]})
    else:
        say(f"replayed: {replayed}" + (f", stored of what was refused: {stored}" if refused else ""))
        for reason in reasons:
            say(f"refused again: {reason}", err=True)
    raise typer.Exit(bool(reasons))


async def _replayed(side: Side, *, refused: bool) -> tuple[int, int, list[AgentstoreError]]:
    try:
        await side.aopen()
        return (side.events.replayed, *(await side.retry_refused() if refused else (0, [])))
    finally:
        await side.aclose()


def _called(journal: str, folder: Path | None) -> list[Seen]:
    base = journal_dir(folder)
    found = [seen for seen in survey(base) if seen.id == journal]
    if not found:
        raise InvalidInputError(f"there is no journal {journal!r} in {base}", hint="journal ls lists them")
    return found


def _named(seen: Seen) -> dict[str, Any]:
    age = timedelta(seconds=int((utcnow() - seen.created_at).total_seconds()))
    created_at = seen.created_at.isoformat(timespec="microseconds")
    return {"journal": seen.id, "store": seen.store, "state": seen.state, "created_at": created_at, "age": str(age)}


def _counts(seen: Seen) -> dict[str, Any]:
    counts: dict[str, Any] = {**dict.fromkeys(_COUNTED, 0), "places": []}
    for entry in seen.entries():
        problem = str(entry) if isinstance(entry, Damage) else _problem(entry, seen)
        kind = "records" if problem is None else "torn" if isinstance(entry, Damage) and entry.torn else "damaged"
        counts[kind] += 1
        counts["places"] += [] if problem is None else [problem]
    return counts


def _problem(entry: Found, seen: Seen) -> str | None:
    """Why a record that is whole makes no sense; None if it does, or is sealed."""
    try:
        _opened(entry, seen)
    except CorruptRecordError as error:
        return f"record {entry.record.position} of {seen.path} is damaged: {error}"
    return None


def _opened(entry: Found, seen: Seen) -> dict[str, Any]:
    """The write in a record and the reason why it was refused, as plain data; nothing of it where it is sealed."""
    payload = entry.record.payload
    if entry.header.sealed:
        return {"encrypted": len(payload)}
    if seen.state != "rejected":
        return _plain(decode(payload))
    reason, payload = unpack(payload)
    return {"reason": reason, **_plain(decode(payload))}


def _entries(seen: Seen) -> Iterator[dict[str, Any]]:
    for entry in seen.entries():
        if isinstance(entry, Damage):
            yield {"state": "torn" if entry.torn else "damaged", "what": str(entry)}
            continue
        head = {"position": entry.record.position, "state": seen.state}
        try:
            yield {**head, **_opened(entry, seen)}
        except AgentstoreError as error:
            yield {**head, "state": "damaged", "what": str(error)}


def _plain(op: Append | SetItems) -> dict[str, Any]:
    ttl = op.ttl.total_seconds() if isinstance(op.ttl, timedelta) else None
    if isinstance(op, SetItems):
        return {"set": {"namespace": op.namespace, "ttl": ttl, "items": [_item(*item) for item in op.items.items()]}}
    written: dict[str, Any] = {name: getattr(op, name) for name in ("session_id", "user_id", "agent", "metadata")}
    return {"append": {**written, "ttl": ttl, "messages": [message.to_dict() for message in op.messages]}}


def _item(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, **({"bytes": base64.b64encode(value).decode()} if type(value) is bytes else {"value": value})}


def _row(entry: dict[str, Any]) -> list[str]:
    """The entry as a line of the table."""
    what, of, content = entry.get("what", "encrypted"), "", entry.get("reason", "")
    if "append" in entry:
        what, of = "append", entry["append"]["session_id"]
        texts = [f"{message['role']}: {message['content']}" for message in entry["append"]["messages"]]
    else:
        texts = [f"{item['key']}: {item.get('value', '(bytes)')}" for item in entry.get("set", {}).get("items", ())]
    if "set" in entry:
        what, of = "set", entry["set"]["namespace"]
    content = "; ".join([*([f"refused, {content}"] if content else []), *texts])
    shown = content if len(content) <= _SHOWN else content[:_SHOWN] + "..."
    return [str(entry.get("position", "")), entry["state"], what, of, shown]
