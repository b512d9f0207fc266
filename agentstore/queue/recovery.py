"""What processes that died have left in their journals, brought to the backend before new writes are taken."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from agentstore.errors import AgentstoreError, CorruptRecordError
from agentstore.protocol import Append, Mark

from .drain import outcomes
from .halving import UNREACHED
from .journal import decode
from .pending import MAX_GROUP_BYTES, Entry, io

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentstore.protocol import Backend

    from .journal import Folder, Leftover, Record

_log = logging.getLogger(__name__)

_CHUNK = 500  # records


async def replay(store: Backend, folder: Folder) -> int:
    """Store what leftover journals hold; how many writes. A write that was stored before changes nothing.

    Raises:
        UnavailableError: The backend or the files cannot be used now; what is not stored stays in its journal.
        CorruptRecordError: A journal is encrypted with another key.
    """
    leftovers = await asyncio.wrap_future(io.submit(folder.leftovers))
    count = 0
    try:
        while leftovers:
            count += await _replay(store, folder, leftovers[0])
            await asyncio.wrap_future(io.submit(leftovers[0].remove))
            leftovers.pop(0)
    finally:
        for leftover in leftovers:
            leftover.release()
    return count


async def retry_refused(store: Backend, folder: Folder) -> tuple[int, list[AgentstoreError]]:
    """Try once more what the backend refused; how many writes it takes now, and why it refuses the others.

    An append whose ids are there by now stores nothing; a set replaces whatever has come since.

    Raises:
        UnavailableError: The backend or the files cannot be used now.
        CorruptRecordError: A file is damaged, or encrypted with another key.
    """
    stored, reasons = 0, []
    for path, record in await asyncio.wrap_future(io.submit(lambda: list(folder.refused()))):
        op = decode(record.payload)
        (told,) = await outcomes(store.append if isinstance(op, Append) else store.write_items, [op])
        if isinstance(told, UNREACHED):
            raise told
        if isinstance(told, AgentstoreError):
            reasons.append(told)
        else:
            await asyncio.wrap_future(io.submit(path.unlink))
            stored += 1
    return stored, reasons


async def _replay(store: Backend, folder: Folder, leftover: Leftover) -> int:
    records = leftover.records()
    count = 0
    while chunk := await asyncio.wrap_future(io.submit(_next, records)):
        entries = [entry for record in chunk if (entry := await _entry(folder, leftover, record)) is not None]
        log = [entry for entry in entries if isinstance(entry.op, Append)]
        state = [entry for entry in entries if not isinstance(entry.op, Append)]
        for part, carry in ((log, store.append), (state, store.write_items)):
            if part:
                told = await outcomes(carry, [entry.marked() for entry in part])
                await _judge(folder, part, told)
        count += len(entries)
    if count:
        _log.info("%d writes that process %s had accepted were replayed from %s", count, leftover.id, leftover.path)
    return count


def _next(records: Iterator[Record]) -> list[Record]:
    chunk: list[Record] = []
    size = 0
    while len(chunk) < _CHUNK and size < MAX_GROUP_BYTES and (record := next(records, None)) is not None:
        chunk.append(record)
        size += len(record.payload)
    return chunk


async def _entry(folder: Folder, leftover: Leftover, record: Record) -> Entry | None:
    mark = Mark(leftover.id, record.position)
    try:
        return Entry(decode(record.payload), mark)
    except CorruptRecordError as error:
        await _keep(folder, mark, record.payload, error)
        return None


async def _judge(folder: Folder, entries: list[Entry], told: list[Any]) -> None:
    for entry, outcome in zip(entries, told, strict=True):
        if isinstance(outcome, UNREACHED):
            raise outcome
        if isinstance(outcome, AgentstoreError):
            await put_aside(folder, entry, outcome)


async def put_aside(folder: Folder, entry: Entry, error: AgentstoreError) -> None:
    """Keep a write that the backend refuses in ``rejected/``.

    Raises:
        UnavailableError: The files cannot be used.
    """
    await _keep(folder, entry.mark, entry.payload(), error)


async def _keep(folder: Folder, mark: Mark, payload: bytes, error: AgentstoreError) -> None:
    reason = f"{type(error).__name__}: {error}"
    await asyncio.wrap_future(io.submit(folder.reject, mark.queue, mark.position, payload, reason))
