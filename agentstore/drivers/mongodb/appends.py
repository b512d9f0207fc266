"""Appending: insert the messages, then replace the heads on condition that nobody came between."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from agentstore import rules
from agentstore.drivers import optimistic

from . import documents
from .heads import MOST_OPEN, Gone, Head, commit, finish, load, new_token
from .reads import named
from .together import together

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentstore.errors import AgentstoreError
    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message

    from .client import Document, Tables
    from .clock import Clock


async def append(
    tables: Tables, clock: Clock, batch: Sequence[Append], patience: float
) -> list[Outcome[list[Message]]]:
    """Four round trips for a group of any size: heads, known ids, messages, heads."""
    return await optimistic.append(batch, partial(_load, tables, clock), partial(_write, tables), patience)


async def _load(tables: Tables, clock: Clock, batch: Sequence[Append]) -> optimistic.Loaded[Head]:
    now = await clock.now(tables)
    heads = await load(tables, {op.session_id for op in batch})
    stored = {session_id: head.stored() for session_id, head in heads.items()}
    for session_id, head in heads.items():
        stored[session_id].marks = head.marks
    names = {(op.session_id, message.id) for op in batch if stored[op.session_id].session for message in op.messages}
    for session_id, found in (await named(tables, heads, names)).items():
        stored[session_id].messages = dict(zip(found, documents.messages(found.values()), strict=True))
    return optimistic.Loaded(stored, heads, now)


async def _write(
    tables: Tables, written: Mapping[str, rules.Written], heads: Mapping[str, Head]
) -> Mapping[str, AgentstoreError | None]:
    following = {key: _following(heads[key], entry) for key, entry in written.items()}
    inserted = {key: _message_documents(entry, following[key]) for key, entry in written.items()}
    await together(
        finish(tables, [heads[key] for key in written], settle=True),
        insert(tables, [document for entries in inserted.values() for document in entries]),
    )
    missed = await commit(tables, heads, following)
    stray = [document["_id"] for key in missed for document in inserted[key]]
    await delete_strays(tables, stray)
    return dict.fromkeys(missed)


async def insert(tables: Tables, new: Sequence[Document]) -> None:
    """Insert messages; the driver gives them their ``_id`` and splits what is too long for one command."""
    if new:
        await tables.messages.insert_many(new, ordered=False)


async def delete_strays(tables: Tables, ids: Sequence[Any]) -> None:
    """Delete messages whose head came second, by their ``_id``; without a token they are someone's after all."""
    if ids:
        await tables.messages.delete_many({"_id": {"$in": ids}, "token": {"$exists": True}})


def _following(head: Head, entry: rules.Written) -> Document:
    """The head after an append. Its own token is the last of the open ones, if it brings messages."""
    if entry.wipe or head.log is None:
        cut = {"gone": Gone(head.log)._asdict()} if head.log else {}
        head = head.bare
        control: Document = {"log": new_token()} | cut
    else:
        control = {}
    if entry.messages:
        many = len(head.open) >= MOST_OPEN  # then `finish` settles them
        first = entry.messages[0].seq
        control["open"] = [*([] if many else head.open), new_token()]
        control["open_from"] = first if many or not head.open else head.document["open_from"]
    if entry.marks is not None:
        control["marks"] = rules.marks_to_text(entry.marks)
    return head.next(entry.session, **control)


def _message_documents(entry: rules.Written, head: Document) -> list[Document]:
    place = entry.session.message_count - len(entry.messages)
    return message_documents(entry.session.id, entry.messages, head, place)


def message_documents(session_id: str, messages: Sequence[Message], head: Document, place: int) -> list[Document]:
    """Messages to be inserted before their head is committed; `place` is how many stand before them."""
    return [
        documents.message_document(session_id, message)
        | {"log": head["log"], "place": place + index, "token": head["open"][-1]}
        for index, message in enumerate(messages, 1)
    ]
