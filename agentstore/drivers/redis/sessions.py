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


@dataclass(frozen=True, slots=True)
class Version:
    """What must still hold when a session is written.

    Attributes:
        head: What its head begins with; empty: there is none.
        last: The last seq that is kept beside it; only asked for where there is no head.
        session: What was listed.
    """

    head: str | bytes
    last: str | bytes
    session: Session | None


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
        staged: What the names of keys end in that take the log's place; empty if none do.
        added: Messages to add.
        guessed: The time that was assumed, if what is there was assumed too (`recent`); None: it was asked for.
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
    guessed: datetime | None = None
    delisted: Sequence[tuple[str, str]] = field(default_factory=list)


def load_commands(wire: Wire, session_id: str) -> list[Command]:
    """What `loaded` takes the answers of."""
    keys = wire.keys.session(session_id)
    return [Command(keys.head, ("MGET", keys.head, keys.last))]


def loaded(session_id: str, answer: Sequence[bytes | None]) -> tuple[Here, Version]:
    """What is there, and its version.

    Raises:
        CorruptRecordError: It cannot be read.
    """
    head, last = answer
    kept = last or b""
    session = None if head is None else records.session_of(session_id, head)
    last_seq = max(records.last_seq_of(session_id, kept), session.last_seq if session else 0)
    return Here(session, last_seq), Version(records.version(session) if session else "", kept, session)


def wreck(answers: Sequence[Any]) -> tuple[Here, Version]:
    """As `loaded`, of what cannot be read and shall go; where the last seq is unreadable the last message's stands in.

    Args:
        answers: Those to `load_commands`, and the newest record of the log.
    """
    (head, last), newest = answers
    texts = [(head or b"").partition(b" ")[0], last or b""]
    texts += [record[:19] for record in newest]
    last_seq = max([0, *(int(text) for text in texts if text.isdigit())])
    return Here(None, last_seq), Version(head or b"", last or b"", None)


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
        "" if write.guessed is None else codec.to_micros(write.guessed),
        len(write.cut_ids),
        len(write.added),
        *write.cut_ids,
        *messages,
        *arguments,
    )
    return Command(keys.head, call)


async def commit(wire: Wire, writes: Sequence[Write]) -> list[bool | AgentstoreError]:
    """Write sessions, each whole or not at all: whether its version held, or why it could not be written."""
    entries = wire.keys.entries
    heads = ["" if write.session is None else records.head_text(write.session) for write in writes]
    changes = [
        relisting(entries(write.session), [*entries(write.version.session), *write.delisted]) for write in writes
    ]
    await wire.before(changes)
    for write in writes:
        wire.recent.put(write.session_id, None, 0)
    answers = await wire.run([write_command(wire, *parts) for parts in zip(writes, heads, changes, strict=True)])
    for write, head, answer in zip(writes, heads, answers, strict=True):
        if answer == 1:
            wire.recent.put(write.session_id, write.session, len(head))
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
        write = plan(answers, wire.time_of(time))
        if write is None:
            return False
        (written,) = await commit(wire, [write])
        if isinstance(written, AgentstoreError):
            raise written
        if written:
            return True
        await attempts.again()
