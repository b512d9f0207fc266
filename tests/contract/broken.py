"""Drivers with one defect each, for `test_suite`."""

import asyncio
import dataclasses

from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import AgentstoreError
from agentstore.findings import Finding
from agentstore.records import utcnow
from agentstore.stats import PoolStats


class Honest(MemoryBackend):
    """None."""


class LosesEverySeventhAppend(MemoryBackend):
    appends = 0

    async def append(self, batch):
        outcomes = await super().append(batch)
        for op, outcome in zip(batch, outcomes, strict=True):
            self.appends += 1
            if self.appends % 7 == 0 and isinstance(outcome, list):
                lost = {message.id for message in outcome}
                self._logs[op.session_id] = [m for m in self._logs[op.session_id] if m.id not in lost]
        return outcomes


class StoresTheNewestFirst(MemoryBackend):
    async def append(self, batch):
        return (await super().append(batch[::-1]))[::-1]


class ReadsNewestFirst(MemoryBackend):
    async def read(self, batch):
        return [outcome[::-1] if isinstance(outcome, list) else outcome for outcome in await super().read(batch)]


class LimitGivesTheOldest(MemoryBackend):
    async def read(self, batch):
        found = await super().read([dataclasses.replace(op, limit=None) for op in batch])
        return [f[: op.limit] if isinstance(f, list) else f for op, f in zip(batch, found, strict=True)]


class ForgetsCase(MemoryBackend):
    async def append(self, batch):
        return await super().append([dataclasses.replace(op, session_id=op.session_id.lower()) for op in batch])

    async def read(self, batch):
        return await super().read([dataclasses.replace(op, session_id=op.session_id.lower()) for op in batch])


class TrimsKeys(MemoryBackend):
    async def write_items(self, batch):
        return await super().write_items([_trimmed(op) for op in batch])


class IgnoresExpectedSeq(MemoryBackend):
    async def append(self, batch):
        return await super().append([dataclasses.replace(op, expected_seq=None) for op in batch])


class SaysThatItIgnoresExpectedSeq(IgnoresExpectedSeq):
    lacks = {"expected_seq": "it was never asked for"}  # noqa: RUF012  as a driver declares it


class LacksWhatNobodyKnows(MemoryBackend):
    lacks = {"time travel": "too late"}  # noqa: RUF012  as a driver declares it


class StoresRetriesTwice(MemoryBackend):
    async def append(self, batch):
        for op in batch:
            if op.session_id in self._sessions:
                self._sessions[op.session_id].messages.clear()
        return await super().append(batch)


class RemembersRemovedIds(MemoryBackend):
    async def pop(self, session_id, count, *, user_id=None):
        known = dict(self._stored(session_id).messages)
        removed = await super().pop(session_id, count, user_id=user_id)
        if removed:
            self._sessions[session_id].messages.update(known)
        return removed


class UsesSeqsAgain(MemoryBackend):
    async def pop(self, session_id, count, *, user_id=None):
        removed = await super().pop(session_id, count, user_id=user_id)
        for message in removed[:1]:
            self._sessions[session_id].last_seq = message.seq - 1
        return removed


class ForgetsSeqsOfTheDeleted(MemoryBackend):
    def _retire(self, session_id):
        super()._retire(session_id)
        del self._sessions[session_id]


class OneBadAppendFailsAll(MemoryBackend):
    async def append(self, batch):
        outcomes = await super().append(batch)
        bad = [outcome for outcome in outcomes if isinstance(outcome, AgentstoreError)]
        return bad[:1] * len(batch) or outcomes  # (raised, it would concern the batch, and the queue finds the culprit)


class StoresPartOfAnAppend(MemoryBackend):
    async def append(self, batch):
        outcomes = []
        for op in batch:
            parts = []
            for message in op.messages or (None,):
                await asyncio.sleep(0)
                part = dataclasses.replace(op, messages=(message,) if message else ())
                parts.append((await super().append([part]))[0])
            errors = [part for part in parts if isinstance(part, AgentstoreError)]
            outcomes.append(errors[0] if errors else [message for part in parts for message in part])
        return outcomes


class AnswersBeforeItStores(MemoryBackend):
    async def append(self, batch):
        stored = await super().append(batch)
        held = {op.session_id: self._logs[op.session_id] for op in batch if op.session_id in self._logs}
        self._logs.update({session_id: log[: -len(batch)] for session_id, log in held.items()})
        asyncio.get_running_loop().call_later(0.02, self._logs.update, held)
        return stored


class AsksNobody(MemoryBackend):
    async def read(self, batch):
        return await super().read([dataclasses.replace(op, user_id=None) for op in batch])


class LetsAnyoneDelete(MemoryBackend):
    async def delete(self, session_id, *, user_id=None):
        return await super().delete(session_id)


class TTLDoesNotSlide(MemoryBackend):
    async def append(self, batch):
        old = {op.session_id: self._stored(op.session_id).session for op in batch}
        outcomes = await super().append(batch)
        for session_id, session in old.items():
            if session and session.expires_at and session.expires_at > utcnow():
                entry = self._sessions[session_id]
                entry.session = dataclasses.replace(entry.session, expires_at=session.expires_at)
        return outcomes


class ListsTheExpired(MemoryBackend):
    async def list_sessions(self, listing):
        kept = {name: entry.session for name, entry in self._sessions.items()}
        for entry in self._sessions.values():
            entry.session = entry.session and dataclasses.replace(entry.session, expires_at=None)
        try:
            return await super().list_sessions(listing)
        finally:
            for name, session in kept.items():
                self._sessions[name].session = session


class PagesByTimeAlone(MemoryBackend):
    async def list_sessions(self, listing):
        page = await super().list_sessions(dataclasses.replace(listing, limit=1000, cursor=None))
        items = [s for s in page.items if not listing.cursor or s.updated_at.isoformat() < listing.cursor]
        more = len(items) > listing.limit
        items = items[: listing.limit]
        return dataclasses.replace(
            page, items=tuple(items), next_cursor=items[-1].updated_at.isoformat() if more else None
        )


class SharesItsRecords(MemoryBackend):
    async def get_items(self, batch):
        return [
            {k: self._items[op.namespace][k] for k in op.keys if k in self._items.get(op.namespace, {})} for op in batch
        ]


class CountsInFloats(MemoryBackend):
    async def write_items(self, batch):
        for op in batch:
            for key, value in getattr(op, "items", {}).items():
                if type(value) is list:
                    op.items[key] = [float(v) if type(v) is int and abs(v) >= 2**63 else v for v in value]
        return await super().write_items(batch)


class ScansInUTF16(MemoryBackend):
    async def scan(self, scan):
        found = await super().scan(dataclasses.replace(scan, limit=None))
        found.sort(key=lambda item: item.key.encode("utf-16-be"), reverse=scan.reverse)
        return found[: scan.limit]


class UsesVersionsAgain(MemoryBackend):
    async def write_items(self, batch):
        self._floors.clear()
        return await super().write_items(batch)


class IgnoresVersions(MemoryBackend):
    async def write_items(self, batch):
        outcomes = []
        for op in batch:
            if getattr(op, "if_version", None) is not None:
                outcomes += await super().write_items([dataclasses.replace(op, if_version=None)])
            else:
                outcomes += await super().write_items([op])
        return outcomes


class IncrementClearsTheTTL(MemoryBackend):
    async def write_items(self, batch):
        outcomes = await super().write_items(batch)
        for op in batch:
            if type(op).__name__ == "Increment":
                item = self._items[op.namespace][op.key]
                self._items[op.namespace][op.key] = dataclasses.replace(item, expires_at=None)
        return outcomes


class CutsTextAtNUL(MemoryBackend):
    async def append(self, batch):
        return await super().append(
            [dataclasses.replace(op, messages=tuple(_cut(message) for message in op.messages)) for op in batch]
        )


class SetsOneByOne(MemoryBackend):
    async def write_items(self, batch):
        outcomes = []
        for op in batch:
            for part in _each(op):
                await asyncio.sleep(0)
                last = await super().write_items([part])
            outcomes += last
        return outcomes


class GoesOnAfterACancellation(MemoryBackend):
    async def update(self, change):
        async def later():
            await asyncio.sleep(0.01)
            return await super(GoesOnAfterACancellation, self).update(change)

        return await asyncio.shield(asyncio.create_task(later()))


class BindsToItsFirstLoop(MemoryBackend):
    async def aopen(self):
        self.loop = asyncio.get_running_loop()

    async def append(self, batch):
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError("attached to a different loop")
        return await super().append(batch)


class CallsItselfUnfit(MemoryBackend):
    async def examine(self):
        return [*await super().examine(), Finding("author", "defective", "unfit", "Write another")]


class KeepsItsAdviceToItself(MemoryBackend):
    async def examine(self):
        return [dataclasses.replace(finding, advice=None) for finding in await super().examine()]


class ShowsPoolsOfTheClosed(MemoryBackend):
    def pools(self):
        return (PoolStats("memory:", size=1, in_use=0, waiting=0),)


def _trimmed(op):
    items = getattr(op, "items", None)
    return dataclasses.replace(op, items={key.strip(): value for key, value in items.items()}) if items else op


def _each(op):
    items = getattr(op, "items", None)
    return [dataclasses.replace(op, items={key: value}) for key, value in items.items()] if items else [op]


def _cut(message):
    text = message.content
    return dataclasses.replace(message, content=text.partition("\x00")[0]) if isinstance(text, str) else message
