"""Encryption at rest: what goes to the driver is sealed, what comes from it is opened."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from agentstore import rules
from agentstore.concurrency import DaemonExecutor, answer_despite, uncancelled
from agentstore.errors import AgentstoreError
from agentstore.protocol import Append, Find, Increment, Keep, Read, SetItems

from . import sums
from .base import Layer
from .sealing import METADATA_ROOM, RecordCipher, sealed_size

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from agentstore.keyring import Keyring
    from agentstore.protocol import (
        Backend,
        Change,
        GetItems,
        Head,
        Listing,
        Outcome,
        Scan,
        StateOp,
    )
    from agentstore.records import Message, Page, Session, StateItem

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")

_LONG = 2**18  # bytes or characters: more of them keep a loop waiting for longer than a thread costs
_THREADS = 2


class Encrypting(Layer):
    """A backend of which the texts are sealed in another; see `sealing` for which they are, and how.

    A record that cannot be opened fails the operation that asked for it, and no other. Long texts are worked on by a
    thread.

    Args:
        inner: The driver.
        keyring: Seals with its first key.
    """

    def __init__(self, inner: Backend, keyring: Keyring) -> None:
        super().__init__(inner)
        self._cipher = RecordCipher(keyring)
        self._threads = DaemonExecutor(_THREADS, "agentstore encryption")

    @property
    def lacks(self) -> Mapping[str, str]:
        """What the driver lacks; sums are as exact as its comparing of versions."""
        lacks = dict(self._inner.lacks)
        for where in ("", " between processes"):
            if reason := lacks.get(f"if_version{where}"):
                lacks.setdefault(f"increment{where}", reason)
        return lacks

    async def aclose(self) -> None:
        await self._inner.aclose()
        self._threads.shutdown(wait=False)

    def close_at_exit(self) -> None:
        self._inner.close_at_exit()
        self._threads.shutdown(wait=False)

    # --- conversations ---

    async def append(self, batch: Sequence[Append]) -> list[Outcome[list[Message]]]:
        sealed = await self._work(sum(map(_size, batch)), lambda: rules.each(batch, self._sealed))
        pairs = {place: op for place, op in enumerate(sealed) if isinstance(op, Append)}

        def answer(outcomes: Iterable[Outcome[list[Message]]]) -> list[Outcome[list[Message]]]:
            told: list[Outcome[list[Message]]] = list(sealed)  # type: ignore[arg-type]  # what is no error is replaced
            opened = _opened(list(pairs.items()), outcomes, lambda at, found: self._stored(batch[at[0]], at[1], found))
            for place, outcome in zip(pairs, opened, strict=True):
                told[place] = outcome
            return told

        return await _translated(self._inner.append(list(pairs.values())), answer) if pairs else answer([])

    def _sealed(self, op: Append) -> Append:
        messages = tuple(self._cipher.message(op.session_id, message) for message in op.messages)
        metadata = self._cipher.metadata(op.session_id, op.metadata) if op.metadata else op.metadata
        size = len(messages) * sealed_size(0) + op.size * 4 // 3
        return replace(op, messages=messages, metadata=metadata, size=size, metadata_room=METADATA_ROOM)

    def _stored(self, given: Append, sealed: Append, found: Sequence[Message]) -> list[Message]:
        """The answer to an append; what was stored just now need not be opened."""
        texts = {message.content: known for message, known in zip(sealed.messages, given.messages, strict=True)}
        return [
            replace(known, seq=message.seq)
            if isinstance(message.content, str) and (known := texts.get(message.content)) is not None
            else self._cipher.open_message(given.session_id, message)
            for message in found
        ]

    async def read(self, batch: Sequence[Read]) -> list[Outcome[list[Message]]]:
        found = await self._inner.read(batch)
        size = sum(map(_text, (message for out in found if isinstance(out, list) for message in out)))
        return await self._work(size, lambda: _opened(batch, found, self._messages))

    def _messages(self, op: Read, found: Sequence[Message]) -> list[Message]:
        return [self._cipher.open_message(op.session_id, message) for message in found]

    async def find(self, batch: Sequence[Find]) -> list[Outcome[dict[str, Message]]]:
        found = await self._inner.find(batch)

        def answer(op: Find, messages: Mapping[str, Message]) -> dict[str, Message]:
            return {key: self._cipher.open_message(op.session_id, message) for key, message in messages.items()}

        size = sum(map(_text, (message for out in found if isinstance(out, dict) for message in out.values())))
        return await self._work(size, lambda: _opened(batch, found, answer))

    async def heads(self, batch: Sequence[Head]) -> list[Outcome[Session | None]]:
        found = await self._inner.heads(batch)

        def answer(_op: Head, session: Session | None) -> Session | None:
            return None if session is None else self._cipher.open_session(session)

        sessions = [out for out in found if out is not None and not isinstance(out, AgentstoreError)]
        return await self._work(sum(map(_head, sessions)), lambda: _opened(batch, found, answer))

    async def list_sessions(self, listing: Listing) -> Page[Session]:
        page = await self._inner.list_sessions(listing)
        items = await self._work(
            sum(map(_head, page.items)), lambda: tuple(self._cipher.open_session(session) for session in page.items)
        )
        return replace(page, items=items)

    async def pop(self, session_id: str, count: int, *, user_id: str | None = None) -> list[Message]:
        op = Read(session_id, user_id, count)
        (outcome,) = await self.read([op])  # what cannot be opened must not be removed
        if isinstance(outcome, AgentstoreError):
            raise outcome
        removed = await self._inner.pop(session_id, count, user_id=user_id)
        return await self._work(sum(map(_text, removed)), lambda: self._messages(op, removed))

    async def update(self, change: Change) -> Session:
        def seal() -> Change:
            title, metadata = change.title, change.metadata
            if isinstance(title, str):
                title = self._cipher.title(change.session_id, title)
            if not isinstance(metadata, Keep):
                metadata = self._cipher.metadata(change.session_id, metadata, whole=True)
            return replace(change, title=title, metadata=metadata)

        metadata = None if isinstance(change.metadata, Keep) else change.metadata
        title = change.title if isinstance(change.title, str) else ""
        sealed = await self._work(len(title) + _length(metadata), seal)
        session = await self._inner.update(sealed)
        return await self._work(_head(session), partial(self._cipher.open_session, session))

    async def restore(self, session: Session, messages: Sequence[Message]) -> None:
        await self._inner.restore(*await self._whole(session, messages))

    async def rewrite(self, session: Session, messages: Sequence[Message]) -> bool:
        # Role and run stay what they are in the store, and a text is bound to them.
        (found,) = await self._inner.find([Find(session.id, ids=tuple(message.id for message in messages))])
        if isinstance(found, AgentstoreError):
            raise found
        messages = [
            replace(rules.rewritten(found.get(message.id, message), message), seq=message.seq) for message in messages
        ]
        return await self._inner.rewrite(*await self._whole(session, messages))

    async def _whole(self, session: Session, messages: Sequence[Message]) -> tuple[Session, list[Message]]:
        def seal() -> tuple[Session, list[Message]]:
            return self._cipher.session(session), [self._cipher.message(session.id, message) for message in messages]

        return await self._work(_head(session) + sum(map(_text, messages)), seal)

    # --- state ---

    async def get_items(self, batch: Sequence[GetItems]) -> list[Outcome[dict[str, StateItem]]]:
        found = await self._inner.get_items(batch)

        def answer(op: GetItems, items: Mapping[str, StateItem]) -> dict[str, StateItem]:
            return {key: self._cipher.open_item(op.namespace, item) for key, item in items.items()}

        size = sum(_length(item.value) for out in found if isinstance(out, dict) for item in out.values())
        return await self._work(size, lambda: _opened(batch, found, answer))

    async def scan(self, scan: Scan) -> list[StateItem]:
        found = await self._inner.scan(scan)
        size = sum(_length(item.value) for item in found)
        return await self._work(size, lambda: [self._cipher.open_item(scan.namespace, item) for item in found])

    async def write_items(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        if not any(isinstance(op, Increment) for op in batch):
            return await self._written(batch)
        return await uncancelled(asyncio.ensure_future(self._in_stages(batch)))

    async def _in_stages(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        """The batch in parts; an error that is raised is then that of its part and of those behind it."""
        done: dict[int, Outcome[int]] = {}
        steps = [places for places in sums.stages(batch) if places]
        for places in steps:
            ops = [batch[place] for place in places]
            added = [op for op in ops if isinstance(op, Increment)]
            try:
                outcomes = await (sums.add(self._inner, self._cipher, added) if added else self._written(ops))
            except AgentstoreError as error:
                if not done:
                    raise
                return [done.get(place, error) for place in range(len(batch))]
            done |= dict(zip(places, outcomes, strict=True))
        return [done[place] for place in range(len(batch))]

    async def _written(self, batch: Sequence[StateOp]) -> list[Outcome[int]]:
        size = sum(op.size for op in batch if isinstance(op, SetItems))
        sealed = await self._work(size, lambda: rules.each(batch, self._sealed_op))
        good = [op for op in sealed if not isinstance(op, AgentstoreError)]

        def answer(outcomes: Iterable[Outcome[int]]) -> list[Outcome[int]]:
            left = iter(outcomes)
            return [op if isinstance(op, AgentstoreError) else next(left) for op in sealed]

        return await _translated(self._inner.write_items(good), answer) if good else answer([])

    def _sealed_op(self, op: StateOp) -> StateOp:
        if not isinstance(op, SetItems):
            return op
        items = {key: self._cipher.value(op.namespace, key, value) for key, value in op.items.items()}
        return replace(op, items=items, size=sealed_size(op.size))

    async def _work(self, size: int, function: Callable[[], T]) -> T:
        """What `function` gives, by a thread if `size` is long; the loop itself does it when all is closed."""
        if size < _LONG:
            return function()
        try:
            future = self._threads.submit(function)
        except RuntimeError:
            return function()
        return await asyncio.wrap_future(future)


async def _translated(asked: Awaitable[Any], answer: Callable[[Any], T]) -> T:
    """The driver's answer as `answer` tells it, also to whoever asks for it after a cancellation."""
    try:
        return answer(await asked)
    except asyncio.CancelledError as cancellation:
        answer_despite(cancellation, answer)
        raise


def _opened(batch: Sequence[In], found: Iterable[Any], answer: Callable[[In, Any], Out]) -> list[Outcome[Out]]:
    """The outcome of each operation, opened by `answer`."""

    def opened(pair: tuple[In, Any]) -> Out:
        op, outcome = pair
        if isinstance(outcome, AgentstoreError):
            raise outcome
        return answer(op, outcome)

    return rules.each(list(zip(batch, found, strict=True)), opened)


def _length(value: Any) -> int:
    """About how long a value is, at a glance."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(len(item) if isinstance(item, (str, bytes)) else _length_within(item) for item in value.values())
    return _length_within(value)


def _length_within(value: Any) -> int:
    return 100 * len(value) if isinstance(value, (list, dict)) else 100


def _text(message: Message) -> int:
    return _length(message.content) + _length(message.metadata)


def _head(session: Session) -> int:
    return len(session.title or "") + _length(session.metadata)


def _size(op: Append) -> int:
    return op.size + _length(op.metadata)


if TYPE_CHECKING:
    _layer: Callable[[Backend, Keyring], Backend] = Encrypting
