"""Read your writes: a store that answers as if everything its write-behind queue has accepted were stored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from agentstore import rules
from agentstore.errors import AgentstoreError, UnavailableError
from agentstore.protocol import Find, GetItems, Head, Listing, Read
from agentstore.records import Message, Page, Session, StateItem, copied

from . import joining
from .base import Layer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentstore.protocol import Backend, Outcome, Scan
    from agentstore.queue.pending import Entry
    from agentstore.queue.write_queue import WriteQueue


Pending: TypeAlias = "tuple[Entry, Message]"


class Overlay(Layer):
    """Lays what is pending over what is stored.

    A message that is pending has no seq, and comes after all that have one. What the backend says and what is pending
    are not seen at one moment: a write may be stored between the two looks. Where that would show, the backend is asked
    again, and pending ids that it knows already (a caller's retry, or our own write whose answer is under way) are left
    out.
    """

    def __init__(self, inner: Backend, queue: WriteQueue) -> None:
        super().__init__(inner)
        self._queue = queue

    # --- messages ---

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        pending = [self._messages(op) for op in batch]
        if not any(pending):
            return await self._inner.read(batch)
        asks = [Find(op.session_id, ids=tuple(mine), exact=op.exact) for op, mine in zip(batch, pending, strict=True)]
        named = [place for place, ask in enumerate(asks) if ask.ids]
        try:
            answers, found = await asyncio.gather(self._inner.read(batch), self._inner.find([asks[n] for n in named]))
        except UnavailableError as error:
            return [self._alone(op, mine, error) for op, mine in zip(batch, pending, strict=True)]
        known = dict(zip(named, found, strict=True))
        return [
            await self._joined(op, answer, mine, known[place]) if mine else answer
            for place, (op, answer, mine) in enumerate(zip(batch, answers, pending, strict=True))
        ]

    def _messages(self, op: Read) -> dict[str, Pending]:
        """The pending messages that `op` asks for too, by id, in order, each with its entry."""
        if op.before is not None or op.limit == 0 or op.session_id not in self._queue.log.by_key:
            return {}
        pending: dict[str, Pending] = {}
        for entry in self._appends(op.session_id):
            for message in joining.messages_of(entry):
                pending.setdefault(message.id, (entry, message))  # an id that comes again stores nothing
        return pending

    def _appends(self, session_id: str) -> Sequence[Entry]:
        with self._queue.guard:
            return self._queue.log.entries(session_id)

    async def _joined(
        self,
        op: Read,
        answer: Outcome[list[Message]],
        pending: Mapping[str, Pending],
        found: Outcome[dict[str, Message]],
    ) -> Outcome[list[Message]]:
        for outcome in (answer, found):
            if isinstance(outcome, AgentstoreError):
                return self._alone(op, pending, outcome)
        if isinstance(answer, AgentstoreError) or isinstance(found, AgentstoreError):
            raise TypeError  # they were looked at
        full = op.limit is not None and len(answer) >= op.limit
        here = {message.id for message in answer}
        left = [key for key in pending if key not in here and key not in found]
        if full and not op.oldest_first and any(pending[key][0].handed for key in left):
            # Others may have written so much behind ours, since it was handed over, that it is no longer in the window.
            (later,) = await self._inner.find([Find(op.session_id, ids=tuple(left), exact=op.exact)])
            if isinstance(later, AgentstoreError):
                return later
            found = {**found, **later}
            left = [key for key in left if key not in later]
        if any(joining.belongs(message, op, answer, full=full) for key, message in found.items() if key not in here):
            (again,) = await self.read([op])  # it was stored after the first look
            return again
        return self._cut(op, answer, pending, left)

    def _cut(
        self, op: Read, answer: list[Message], pending: Mapping[str, Pending], left: Sequence[str]
    ) -> Outcome[list[Message]]:
        try:
            self._queue.known.owned(op.session_id, op.user_id)
        except AgentstoreError as error:
            return error
        whole = [*answer, *(copied(pending[key][1]) for key in left)]
        if op.limit is None:
            return whole
        return whole[: op.limit] if op.oldest_first else whole[-op.limit :]

    def _alone(self, op: Read, pending: Mapping[str, Pending], error: AgentstoreError) -> Outcome[list[Message]]:
        """The answer without the backend: only if it holds nothing of the session, for a part would pass for all."""
        if not pending or not isinstance(error, UnavailableError) or not self._queue.known.is_whole(op.session_id):
            return error
        return self._cut(op, [], pending, list(pending))

    # --- sessions ---

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        pending = [self._appends(op.session_id) for op in batch]
        if not any(pending):
            return await self._inner.heads(batch)
        answers: list[Outcome[Session | None]]
        try:
            answers = await self._inner.heads(batch)
        except UnavailableError as error:
            answers = [error for _ in batch]
        asks = {
            place: Find(
                op.session_id,
                ids=tuple(message.id for entry in mine for message in joining.messages_of(entry)),
                exact=op.exact,
            )
            for place, (op, mine, answer) in enumerate(zip(batch, pending, answers, strict=True))
            if mine and isinstance(answer, Session)
        }
        found = dict(zip(asks, await self._inner.find(list(asks.values())) if asks else (), strict=True))
        return [
            await self._head(op, answer, mine, found.get(place, {})) if mine else answer
            for place, (op, mine, answer) in enumerate(zip(batch, pending, answers, strict=True))
        ]

    async def _head(
        self,
        op: Head,
        stored: Outcome[Session | None],
        entries: Sequence[Entry],
        found: Outcome[dict[str, Message]],
    ) -> Outcome[Session | None]:
        if isinstance(stored, UnavailableError) and self._queue.known.is_whole(op.session_id):
            stored = None
        if isinstance(stored, AgentstoreError):
            return stored
        if isinstance(found, AgentstoreError):
            return found
        if stored is not None and any((message.seq or 0) > stored.last_seq for message in found.values()):
            (again,) = await self.heads([op])  # it was stored after the first look
            return again
        try:
            self._queue.known.owned(op.session_id, op.user_id)
        except AgentstoreError as error:
            return error
        return joining.as_will_be(stored, op.session_id, entries, found)

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        with self._queue.guard:
            pending = list(self._queue.log.by_key)
        if not pending:
            return await self._inner.list_sessions(listing)
        changed = await self.heads([Head(session_id) for session_id in pending])
        below = None if listing.cursor is None else rules.read_cursor(listing.cursor)
        ours = [
            session
            for session in changed
            if isinstance(session, Session) and joining.is_listed(session, listing, below)
        ]
        hidden = set(pending)
        found: list[Session] = []
        following: Listing | None = listing
        while following is not None and len(found) <= listing.limit:
            page = await self._inner.list_sessions(following)
            found += [session for session in page.items if session.id not in hidden]
            following = replace(listing, cursor=page.next_cursor) if page.next_cursor is not None else None
        found = sorted([*found, *ours], key=rules.listing_key, reverse=True)
        return rules.page(found[: listing.limit + 1], listing.limit)

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        pending = [self._messages(Read(op.session_id)) for op in batch]
        found = await self._inner.find(batch)
        return [
            answer if isinstance(answer, AgentstoreError) or not mine else self._found(op, answer, mine)
            for op, answer, mine in zip(batch, found, pending, strict=True)
        ]

    def _found(
        self, op: Find, answer: dict[str, Message], pending: Mapping[str, Pending]
    ) -> Outcome[dict[str, Message]]:
        try:
            self._queue.known.owned(op.session_id, op.user_id)
        except AgentstoreError as error:
            return error
        ours = {key: copied(pending[key][1]) for key in op.ids if key in pending and key not in answer}
        return {key: found for key in op.ids if (found := answer.get(key) or ours.get(key)) is not None}

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        pending = [self._items(op) for op in batch]
        if not any(pending):
            return await self._inner.get_items(batch)
        asks = [
            replace(op, keys=tuple(key for key in op.keys if key not in mine))
            for op, mine in zip(batch, pending, strict=True)
        ]
        named = [place for place, ask in enumerate(asks) if ask.keys]
        told: Sequence[Outcome[dict[str, StateItem]]] = ()
        if named:
            try:
                told = await self._inner.get_items([asks[place] for place in named])
            except UnavailableError as error:
                told = [error for _ in named]
        answers = dict(zip(named, told, strict=True))
        return [joining.merged(op, answers.get(place, {}), pending[place]) for place, op in enumerate(batch)]

    def _items(self, op: GetItems) -> dict[str, StateItem | None]:
        """Of the keys that `op` asks for, what is pending for them; None for what has expired meanwhile."""
        with self._queue.guard:
            lane = self._queue.state.by_key.get(op.namespace)
            entries = {key: lane.latest[key] for key in op.keys if key in lane.latest} if lane is not None else {}
        return {key: joining.item_of(key, entry) for key, entry in entries.items()}

    async def scan(self, scan: Scan) -> list[StateItem]:
        with self._queue.guard:
            lane = self._queue.state.by_key.get(scan.namespace)
            latest = dict(lane.latest) if lane is not None else {}
        pending = {key: joining.item_of(key, entry) for key, entry in latest.items() if joining.is_scanned(key, scan)}
        if not pending:
            return await self._inner.scan(scan)
        # Each pending key may hide a stored one, so that more must be looked for.
        limit = None if scan.limit is None else scan.limit + len(pending)
        stored = [item for item in await self._inner.scan(replace(scan, limit=limit)) if item.key not in pending]
        ours = [item for item in pending.values() if item is not None]
        return sorted([*stored, *ours], key=lambda item: item.key, reverse=scan.reverse)[: scan.limit]
