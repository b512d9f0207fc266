"""Over everything in a store."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from agentstore.errors import AgentstoreError, CorruptRecordError
from agentstore.protocol import Head, Listing, Read, Scan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from datetime import datetime

    from agentstore.protocol import Backend, Outcome
    from agentstore.records import Message, Session, StateItem

    from .forms import Forms
    from .report import Report

T = TypeVar("T")

FIRST_PAGE = 16
"""Messages or keys that are read first: nobody knows yet how long they are."""

BYTES = 4 * 2**20
"""Of texts: beyond it pages get shorter, and writes are split."""

_LONGEST_PAGE = 512
_SESSIONS, _NAMESPACES = 500, 500


class Walk:
    """All sessions and values of a store, each handed to what a subclass does with it."""

    def __init__(self, backend: Backend, forms: Forms, report: Report, progress: Callable[[Report], None]) -> None:
        self.backend = backend
        self.forms = forms
        self.report = report
        self._progress = progress

    async def run(self) -> None:
        """Go over all; what the backend itself cannot read is told, and left aside."""
        async for session_id in self._session_ids():
            with self._told():
                await self.session(session_id)
            self.report.sessions += 1
            self._progress(self.report)
        after = None
        while namespaces := await self.backend.namespaces(after, _NAMESPACES):
            for namespace in namespaces:
                with self._told():
                    await self._namespace(namespace)
            after = namespaces[-1]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except CorruptRecordError as error:
            self.report.failed(error)

    async def _session_ids(self) -> AsyncIterator[str]:
        """Every session that was there when this began, some twice.

        Listings begin with the latest active, so one that was written to meanwhile may have gone past us to their
        head. So the head is read again, down to where it was before, until one page (which is read at one moment) holds
        all that came: then none can have gone past.
        """
        mark: datetime | None = None
        pages = 0
        while pages != 1:
            pages, cursor, newest = 0, None, None
            while pages == 0 or cursor is not None:
                page = await self.backend.list_sessions(Listing(limit=_SESSIONS, cursor=cursor))
                pages, cursor = pages + 1, page.next_cursor
                newest = newest or (page.items[0].updated_at if page.items else None)
                for session in page.items:
                    if mark is not None and session.updated_at < mark:
                        cursor = None
                        break
                    yield session.id
            mark = newest or mark

    async def messages(self, session_id: str, after: int, limit: int) -> list[Message]:
        """The oldest of a session above a seq."""
        return one(await self.backend.read([Read(session_id, limit=limit, after=after)]))

    async def head(self, session_id: str) -> Session | None:
        """The session itself."""
        return one(await self.backend.heads([Head(session_id)]))

    async def session(self, session_id: str) -> None:
        """Do what is to be done with a session and its messages."""
        raise NotImplementedError

    async def _namespace(self, namespace: str) -> None:
        after, limit = None, FIRST_PAGE
        while items := await self.backend.scan(Scan(namespace, limit=limit, after=after)):
            await self.items(namespace, items)
            self.report.values += len(items)
            self._progress(self.report)
            after, limit = items[-1].key, next_page(limit, [item.value for item in items])

    async def items(self, namespace: str, items: Sequence[StateItem]) -> None:
        """Do what is to be done with some values."""
        raise NotImplementedError


def one(outcomes: Sequence[Outcome[T]]) -> T:
    """The outcome of the one operation, raised if it is an error."""
    (outcome,) = outcomes
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return outcome


def next_page(limit: int, texts: Iterable[Any]) -> int:
    """How many to read after a page of these texts."""
    return min(2 * limit, _LONGEST_PAGE) if sum(map(size, texts)) < BYTES else max(1, limit // 2)


def size(text: Any) -> int:
    """About how long a text is, or the value that it stands for."""
    return len(text) if isinstance(text, (str, bytes)) else 1000


def text_of(message: Message) -> Any:
    """What a page of messages is measured by."""
    return message.content
