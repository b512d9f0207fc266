"""Appends: of many callers to many sessions in two round trips, or in one."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from agentstore import rules
from agentstore.drivers import optimistic
from agentstore.errors import AgentstoreError

from . import records
from .client import Command
from .keys import seq_digits
from .sessions import Version, Write, commit, load_commands, loaded
from .wire import TIME, Wire, checked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message


async def append(wire: Wire, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
    """Load what the batch touches, plan, and write each session if it is as it was; else again.

    What this process wrote itself a moment ago is not loaded but guessed, see `recent`.

    A session that cannot be read, or whose server cannot be reached, concerns its own appends alone.
    """
    if not batch:
        return []
    failed: dict[str, AgentstoreError] = {}
    guessed: set[str] = set()
    planned: datetime | None = None

    async def load(ops: Sequence[Append]) -> optimistic.Loaded[Version]:
        nonlocal planned
        stored: dict[str, rules.Stored] = {}
        versions: dict[str, Version] = {}
        now = wire.clock.now()
        guesses = {} if now is None else wire.recent.guess(ops, now)
        named: defaultdict[str, dict[str, None]] = defaultdict(dict)
        for op in ops:
            if op.session_id not in guesses:
                named[op.session_id].update((message.id, None) for message in op.messages)
        if named or now is None:
            found, now = await _find(wire, {key: list(ids) for key, ids in named.items()})
            for session_id, answer in found.items():
                if isinstance(answer, AgentstoreError):
                    failed[session_id] = answer
                    answer = rules.Stored(), Version("", "", None)  # noqa: PLW2901  planned like the others, never written
                stored[session_id], versions[session_id] = answer
        for session_id, (session, version, marks) in guesses.items():
            read = records.marks_of(f"session {session_id!r}", marks)
            stored[session_id] = rules.Stored(session, session.last_seq, marks=read)
            versions[session_id] = Version(version, "", session, marks)
        guessed.clear()
        guessed.update(guesses)
        planned = now
        return optimistic.Loaded(stored, versions, now)

    async def write(
        written: Mapping[str, rules.Written], versions: Mapping[str, Version]
    ) -> Mapping[str, AgentstoreError | None]:
        writes = [
            Write(
                session_id,
                versions[session_id],
                entry.session,
                entry.session.last_seq,
                entry.wipe,
                added=entry.messages,
                marks=entry.marks,
                planned=planned,
                guessed=session_id in guessed,
            )
            for session_id, entry in written.items()
            if session_id not in failed
        ]
        done = zip(writes, await commit(wire, writes), strict=True)
        missed = {
            one.session_id: how if isinstance(how, AgentstoreError) else None for one, how in done if how is not True
        }
        return missed | failed

    outcomes = await optimistic.append(batch, load, write, wire.patience)
    return [failed.get(op.session_id, outcome) for op, outcome in zip(batch, outcomes, strict=True)]


async def _find(
    wire: Wire, named: Mapping[str, Sequence[str]]
) -> tuple[dict[str, tuple[rules.Stored, Version] | AgentstoreError], datetime]:
    """What is there of each session, with those of the named messages that it holds; and the time."""
    commands = [Command(wire.keys.session(next(iter(named))).head, TIME)]
    for session_id, ids in named.items():
        commands += load_commands(wire, session_id)
        if ids:
            keys = wire.keys.session(session_id)
            commands.append(Command(keys.ids, ("HMGET", keys.ids, *ids)))
    time, *answers = await wire.run(commands)
    if isinstance(time, AgentstoreError):
        raise time
    replies = iter(answers)
    found: dict[str, Any] = {}
    seqs: dict[str, list[bytes]] = {}
    for session_id, ids in named.items():
        head, known = next(replies), next(replies) if ids else []
        try:
            here, version = found[session_id] = loaded(session_id, checked(head))
            here.marks = records.marks_of(f"session {session_id!r}", version.marks)
            if seq := [seq for seq in checked(known) if seq is not None]:
                seqs[session_id] = seq
        except AgentstoreError as error:
            found[session_id] = error
    if seqs:
        await _add_known(wire, seqs, found)
    return found, wire.time_of(time)


async def _add_known(wire: Wire, seqs: Mapping[str, Sequence[bytes]], found: dict[str, Any]) -> None:
    """Fill in the messages of these seqs."""
    commands = []
    for session_id, some in seqs.items():
        log = wire.keys.session(session_id).log
        commands += [Command(log, ("ZRANGEBYLEX", log, *_exactly(int(seq)))) for seq in some]
    replies = iter(await wire.run(commands))
    for session_id, some in seqs.items():
        answers = [next(replies) for _ in some]
        try:
            texts = [text for answer in answers for text in checked(answer)]
            found[session_id][0].messages.update(
                (message.id, message) for message in records.messages_of(session_id, texts)
            )
        except AgentstoreError as error:
            found[session_id] = error


def _exactly(seq: int) -> tuple[str, str]:
    return f"[{seq_digits(seq)}", f"({seq_digits(seq + 1)}"
