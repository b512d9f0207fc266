"""Heads: the document of a session, and how everything about it is committed.

A head is replaced as a whole, on condition of its ``version``, a token that every write renews. That replacement *is*
the commit: of an append, whose messages were inserted before, and of a removal, whose messages are deleted after.

- **The log.** Messages belong to a log, named by the head. Clearing, deleting or restoring a session, and starting anew
  after its expiry, name another log: what lies in the old one is out of sight at that moment, for ever, and may be
  deleted by anyone at any time. A pop stays in its log, whose seqs are never given twice.
- **Appends.** Their messages carry the append's ``token`` and count only where it is among the head's ``open`` tokens,
  or was taken off them, which an append does when eight are open, *before* its own commit. So messages of a writer
  that died, or came second, are never seen; it deletes them itself, or the purge does.
- **Removals.** The head says in ``gone`` what it has cut off. Readers leave it out. Whoever removed it deletes it and
  takes ``gone`` away; if that one dies, the next writer does so *before* its own commit. Both may be done again and
  again, and arbitrarily late: the range lies in a dead log, or below every seq to come.

So a writer that stops, at whatever point and for however long, leaves either nothing that counts, or a commit that
is complete. Its own late steps hit its token, or a range that is dead.

- **Reads** take the head first, then the messages, which others may be deleting by then. Each message has its ``place``
  in the session (1, 2, 3 ... without gaps, since only the newest are popped). A reader that misses one asks for the
  head again: if there was a removal it reads anew, otherwise the store is damaged, which is an error and no answer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from bson import ObjectId
from pymongo import DeleteMany, UpdateMany, UpdateOne
from pymongo.errors import PyMongoError

from agentstore import rules

from . import documents
from .conditional import replace
from .documents import LARGEST_INT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentstore.records import Session

    from .client import Document, Tables

MOST_OPEN = 8

_KEPT = ("log", "pops", "open", "open_from", "marks")

_log = logging.getLogger(__name__)


def new_token() -> str:
    """A name that nobody else gives; later ones sort later."""
    return str(ObjectId())


class Gone(NamedTuple):
    """A range of seqs that was cut off a log."""

    log: str
    first: int = 0
    last: int = LARGEST_INT

    @property
    def query(self) -> Document:
        """What finds its messages."""
        return {"log": self.log, "seq": {"$gte": self.first, "$lte": self.last}}


@dataclass(frozen=True, slots=True)
class Head:
    """A session's document, taken apart as far as needed to write the next; the session itself is still undecoded."""

    id: str
    document: Document = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        """What must still hold when it is replaced; None: there is no document."""
        return self.document.get("version")

    @property
    def log(self) -> str | None:
        """The log of its messages; a tombstone has none."""
        return self.document.get("log")

    @property
    def cuts(self) -> tuple[str | None, int]:
        """Changes with every removal."""
        return self.log, self.document.get("pops", 0)

    @property
    def open(self) -> list[str]:
        """The tokens of appends whose messages still carry them."""
        tokens: list[str] = self.document.get("open", [])
        return tokens

    @property
    def gone(self) -> Gone | None:
        """What was cut off and perhaps not deleted yet."""
        gone = self.document.get("gone")
        return Gone(**gone) if gone else None

    @property
    def marks(self) -> rules.Marks:
        """How far queues have come, kept as text by the tombstone too.

        Raises:
            CorruptRecordError: They cannot be read.
        """
        return rules.marks_from_text(self.document.get("marks"))

    @property
    def bare(self) -> Head:
        """What is left of it for a session that begins anew: the marks."""
        return Head(self.id, {name: self.document[name] for name in ("marks",) if name in self.document})

    def stored(self) -> rules.Stored:
        """The session.

        Raises:
            CorruptRecordError: It cannot be read.
        """
        return documents.stored(self.document) if self.document else rules.Stored()

    def counts(self, document: Document) -> bool:
        """Whether a message's document, found under this head's log, is one of the session's."""
        gone, token = self.gone, document.get("token")
        cut = gone is not None and gone.log == self.log and gone.first <= document["seq"] <= gone.last
        return not cut and (token is None or token in self.open)

    def next(self, session: Session, **control: Any) -> Document:
        """The document that follows: the session as it will be, the control fields as they are but for `control`."""
        kept = {name: self.document[name] for name in _KEPT if name in self.document}
        return documents.session_document(session) | kept | {"version": new_token()} | control

    def tombstone(self, last_seq: int) -> Document:
        """The document that stays of a deleted session."""
        cut = {"gone": Gone(self.log)._asdict()} if self.log else {}
        return {"_id": self.id, "version": new_token(), "last_seq": last_seq} | self.bare.document | cut


async def load(tables: Tables, session_ids: Iterable[str]) -> dict[str, Head]:
    """The heads of these ids, in one round trip; an empty one where there is nothing."""
    heads = {session_id: Head(session_id) for session_id in session_ids}
    if not heads:
        return heads
    for document in await tables.sessions.find({"_id": {"$in": list(heads)}}, batch_size=len(heads) + 1).to_list(None):
        heads[document["_id"]] = Head(document["_id"], document)
    return heads


async def finish(tables: Tables, heads: Iterable[Head], *, settle: bool = False) -> None:
    """Do what the heads' writers have left to do; must be done before they are replaced.

    Args:
        tables: Where.
        heads: As loaded.
        settle: Also take the open tokens off their messages, where they are many.
    """
    work: list[Any] = [DeleteMany(head.gone.query) for head in heads if head.gone]
    work += [
        UpdateMany(
            {"log": head.log, "seq": {"$gte": head.document["open_from"]}, "token": {"$in": head.open}},
            {"$unset": {"token": ""}},
        )
        for head in heads
        if settle and len(head.open) >= MOST_OPEN
    ]
    if work:
        await tables.messages.bulk_write(work, ordered=False)


async def commit(tables: Tables, heads: Mapping[str, Head], following: Mapping[str, Document]) -> set[str]:
    """Replace heads, and delete what that cuts off.

    Returns:
        The ids of those that others changed first.
    """
    missed = await replace(
        tables.sessions, {key: (heads[key].version, document) for key, document in following.items()}
    )
    if missed:
        there = await load(tables, missed)
        missed = {key for key in missed if not _follows(heads[key], following[key], there[key])}
    cut = [Head(key, document) for key, document in following.items() if key not in missed and "gone" in document]
    if cut:
        try:
            await sweep(tables, cut)
        except PyMongoError as error:  # it is committed, and the next writer or purge deletes
            _log.warning("what was removed from %d sessions is not deleted yet: %s", len(cut), error)
    return missed


def _follows(head: Head, following: Document, there: Head) -> bool:
    """Whether `following` took the place of `head` after all, and perhaps others came since.

    The driver sends a command again whose answer was lost; a server that does not know it again then refuses what it
    has just done.
    """
    own = set(following.get("open", ())).difference(head.open)
    return there.version == following["version"] or not own.isdisjoint(there.open)


async def sweep(tables: Tables, heads: Iterable[Head]) -> None:
    """Delete what was cut off, then forget that it was."""
    await finish(tables, heads)
    await tables.sessions.bulk_write(
        [UpdateOne({"_id": head.id, "version": head.version}, {"$unset": {"gone": ""}}) for head in heads],
        ordered=False,
    )
