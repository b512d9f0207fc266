"""What is done with everything: writing it anew, and looking at it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, TypeVar

from agentstore.errors import AgentstoreError, ConflictError
from agentstore.protocol import KEEP, SetItems

from .walk import BYTES, FIRST_PAGE, Walk, next_page, one, size, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentstore.records import Message, Session, StateItem

T = TypeVar("T")

_ATTEMPTS = 50
"""For a page of a session that others write to."""


class Rewriting(Walk):
    """Writes anew what is not as it shall be. What cannot be read stays, and is told by who looks afterwards."""

    async def session(self, session_id: str) -> None:
        """Page by page, each again if somebody has written to the session meanwhile."""
        after, limit, attempt = 0, FIRST_PAGE, 0
        while (stored := await self.head(session_id)) is not None:
            messages = await self.messages(session_id, after, limit)
            head = _changed(self.forms.session, stored)
            changed = [new for old in messages if (new := _changed(self.forms.message, session_id, old)) is not old]
            if await self._rewrite(stored, head, changed):
                if len(messages) < limit:
                    return
                attempt = 0
                after, limit = messages[-1].seq or 0, next_page(limit, map(text_of, messages))
                continue
            attempt += 1
            if attempt == _ATTEMPTS:
                return  # somebody writes to it without a pause: the next round may find one
            await asyncio.sleep(random.random() * 0.002 * attempt)  # noqa: S311  to draw apart

    async def _rewrite(self, stored: Session, head: Session, messages: Sequence[Message]) -> bool:
        """False if the session has changed since it was read."""
        for part in _parts(messages, text_of) or ([[]] if head is not stored else []):
            if not await self.backend.rewrite(head, part):
                return False
            self.report.rewritten += len(part) + (head is not stored)
            stored = head
        return True

    async def items(self, namespace: str, items: Sequence[StateItem]) -> None:
        """Set each at the version that was read; its expiry stays."""
        changed = [new for old in items if (new := _changed(self.forms.item, namespace, old)) is not old]
        for part in _parts(changed, lambda item: item.value):
            ops = [SetItems(namespace, {i.key: i.value}, KEEP, i.version, size(i.value)) for i in part]
            for outcome in await self.backend.write_items(ops):
                if not isinstance(outcome, ConflictError):  # another has written it, in the new form
                    one([outcome])
                    self.report.rewritten += 1


class Looking(Walk):
    """Counts what is not as it shall be."""

    async def session(self, session_id: str) -> None:
        """Open all of it."""
        stored = await self.head(session_id)
        if stored is None:
            return
        self._judge(self.forms.check_session, stored)
        after, limit = 0, FIRST_PAGE
        while messages := await self.messages(session_id, after, limit):
            for message in messages:
                self._judge(self.forms.check_message, session_id, message)
            after, limit = messages[-1].seq or 0, next_page(limit, map(text_of, messages))

    async def items(self, namespace: str, items: Sequence[StateItem]) -> None:
        """Open them."""
        for item in items:
            self._judge(self.forms.check_item, namespace, item)

    def _judge(self, check: Callable[..., None], *record: object) -> None:
        try:
            check(*record)
        except AgentstoreError as error:
            self.report.failed(error)


def _changed(convert: Callable[..., T], *record: Any) -> T:
    try:
        return convert(*record)
    except AgentstoreError:  # who looks afterwards tells
        unchanged: T = record[-1]
        return unchanged


def _parts(records: Sequence[T], text: Callable[[T], Any]) -> list[list[T]]:
    """The records in order, so few together that a backend can take them."""
    parts: list[list[T]] = []
    room = 0
    for record in records:
        room -= size(text(record))
        if not parts or room < 0:
            parts.append([])
            room = BYTES - size(text(record))
        parts[-1].append(record)
    return parts
