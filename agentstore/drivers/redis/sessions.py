"""One session: what is there, and the conditional write of what shall be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentstore import codec, rules
from agentstore.drivers.optimistic import Attempts
from agentstore.errors import AgentstoreError

from . import records, scripts
from .client import Command
from .keys import seq_digits
from .wire import TIME, Relisting, Wire, relisting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from agentstore.records import Message, Session

Here = rules.Stored

_GUESS = 1_000_000  # microseconds that a guessed time may be off
_LISTED = 30_000_000  # and any on a cluster: who comes later may find that its listing was cleared, see `listings`


@dataclass(frozen=True, slots=True)
class Version:
    """What must still hold when a session is written.

    Attributes:
        head: What its head begins with; empty: there is none.
        last: The last seq that is kept beside it; only asked for where there is no head.
        session: What was listed.
        marks: The marks that are kept beside it; only asked for where others come.
    """

    head: str | bytes
    last: str | bytes
    session: Session | None
    marks: str | bytes = ""


@dataclass(slots=True)
class Write:
    """What to make of a session.

    Attributes:
        session_id: Which.
        version: What must still hold.
        session: The new head; None removes it.
        last_seq: The highest seq given so far.
        wipe: All messages go first.
        cut: The messages from this one on go.
        cut_ids: Their ids.
        staged: What the names of keys end in that take the log's place, or without `wipe` hold other texts for some of
            its messages; empty if none do.
        added: Messages to add.
        held: How many messages there must be; None: any number.
        marks: The marks to keep; None: those that are there.
        planned: The time that was assumed.
        guessed: What is there was assumed too (`recent`).
        delisted: The (listing, member) pairs that are written no more, in addition to those of the former head.
    """

    session_id: str
    version: Version
    session: Session | None
    last_seq: int
    wipe: bool = False
    cut: Message | None = None
    cut_ids: Sequence[str] = ()
    staged: str = ""
    added: Sequence[Message] = ()
    held: int | None = None
    marks: rules.Marks | None = None
    planned: datetime | None = None
    guessed: bool = False
    delisted: Sequence[tuple[str, str]] = field(default_factory=list)


def load_commands(wire: Wire, session_id: str) -> list[Command]:
    """What `loaded` takes the answers of."""
    keys = wire.keys.session(session_id)
    return [Command(keys.head, ("MGET", keys.head, keys.last, keys.marks))]


def loaded(session_id: str, answer: Sequence[bytes | None]) -> tuple[Here, Version]:
    """What is there, and its version; the marks are in the version alone, unread, since few need them.

    Raises:
        CorruptRecordError: It cannot be read.
    """
    head, last, marks = answer
    kept = last or b""
    session = None if head is None else records.session_of(session_id, head)
    last_seq = max(records.last_seq_of(session_id, kept), session.last_seq if session else 0)
    return Here(session, last_seq), Version(records.version_of(head) if head else "", kept, session, marks or b"")


def wreck(answers: Sequence[Any]) -> tuple[Here, Version]:
    """As `loaded`, of what cannot be read and shall go; where the last seq is unreadable the last message's stands in.

    Args:
        answers: Those to `load_commands`, and the newest record of the log.
    """
    (head, last, marks), newest = answers
    texts = [(head or b"").partition(b" ")[0], last or b""]
    texts += [record[:19] for record in newest]
    last_seq = max([0, *(int(text) for text in texts if text.isdigit())])
    return Here(None, last_seq), Version(head or b"", last or b"", None, marks or b"")


def write_command(wire: Wire, write: Write, head: str, change: Relisting) -> Command:
    """The script's call; `head` is the new one's text."""
    keys = wire.keys.session(write.session_id)
    session, version = write.session, write.version
    outlives = session is None or session.expires_at is not None
    listings, arguments = wire.within(change, len(keys) + 1)
    messages: list[str | int] = []
    for message in write.added:
        messages += (message.id, message.seq or 0, records.message_text(message))
    call = scripts.call(
        scripts.WRITE_SESSION,
        [*keys, *listings],
        version.head,
        version.last,
        head,
        write.last_seq if outlives else "",
        "" if session is None else records.expiry_millis(session.expires_at),
        "1" if write.wipe else "",
        "" if write.cut is None else seq_digits(write.cut.seq or 0),
        write.staged,
        *_planned(wire, write),
        "" if write.held is None else write.held,
        version.marks if write.marks else "",
        records.marks_text(write.marks),
        len(write.cut_ids),
        len(write.added),
        *write.cut_ids,
        *messages,
        *arguments,
    )
    return Command(keys.head, call)


def _planned(wire: Wire, write: Write) -> tuple[str | int, str | int]:
    """The time that a write was planned for and how far it may be off, in microseconds."""
    if write.planned is None or (wire.one_server and not write.guessed):
        return "", ""
    return codec.to_micros(write.planned), _GUESS if write.guessed else _LISTED


async def commit(wire: Wire, writes: Sequence[Write]) -> list[bool | AgentstoreError]:
    """Write sessions, each whole or not at all: whether its version held, or why it could not be written."""
    entries = wire.keys.entries
    versions = ["" if write.session is None else records.new_version(write.session) for write in writes]
    heads = [
        "" if write.session is None else records.head_text(write.session, version)
        for write, version in zip(writes, versions, strict=True)
    ]
    changes = [
        relisting(entries(write.session), [*entries(write.version.session), *write.delisted]) for write in writes
    ]
    await wire.before(changes)
    for write in writes:
        wire.recent.forget(write.session_id)
    answers = await wire.run([write_command(wire, *parts) for parts in zip(writes, heads, changes, strict=True)])
    for write, version, answer in zip(writes, versions, answers, strict=True):
        if answer == 1 and write.session is not None:
            wire.recent.put(write.session, version, records.marks_text(write.marks) or write.version.marks)
        elif answer == 0:
            wire.recent.shared(write.session_id)
    done = [answer if isinstance(answer, AgentstoreError) else answer == 1 for answer in answers]
    await wire.after(change for change, written in zip(changes, done, strict=True) if written is True)
    return done


async def change(
    wire: Wire,
    what: str,
    load: Sequence[Command],
    plan: Callable[[list[Any], datetime], Write | None],
) -> bool:
    """Load, plan, write, and again until nobody comes between.

    Args:
        wire: Where.
        what: Is being done, for the message of an error.
        load: Commands whose answers `plan` needs.
        plan: Says what is to be written, given the answers and the time; None: nothing.

    Returns:
        Whether anything was written.
    """
    attempts = Attempts(what, wire.patience)
    while True:
        *answers, time = await wire.ask(*load, Command(load[0].key, TIME))
        now = wire.time_of(time)
        write = plan(answers, now)
        if write is None:
            return False
        write.planned = now
        (written,) = await commit(wire, [write])
        if isinstance(written, AgentstoreError):
            raise written
        if written:
            return True
        await attempts.again()
