"""The face of the log: messages and sessions. Checks what comes in, and hands it down the stack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from . import transfer
from .checks import (
    MAX_BYTES,
    check_count,
    check_id,
    check_json,
    check_messages,
    check_metadata,
    check_optional_count,
    check_optional_id,
    check_text,
    check_ttl,
)
from .errors import ConflictError
from .protocol import KEEP, Change, Find, Head, Keep, Listing, Read, answered, new_append
from .records import Message, Page, Session, new_id, utcnow
from .rules import ttl_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager
    from datetime import timedelta

    from .layers.stack import Stack


class Conversations:
    """What a `Database` does with sessions.

    ``user_id`` of any call says who asks: a session that has an owner answers only that user, or a caller who gives
    none, else `AccessDeniedError`. Every call raises `InvalidInputError` for what cannot be stored,
    `UnavailableError` if the backend cannot be used and `ClosedError` after a close.
    """

    _session_ttl: timedelta | None

    def use(self, call: str, size: int = 1) -> AbstractAsyncContextManager[Stack]:
        """The running loop's way down, for one call of that name, with so many messages."""
        raise NotImplementedError

    # --- messages ---

    async def append(
        self,
        session_id: str,
        messages: Message | Mapping[str, Any] | Iterable[Message | Mapping[str, Any]],
        *,
        user_id: str | None = None,
        agent: str | None = None,
        metadata: dict[str, Any] | None = None,
        ttl: timedelta | float | None = None,
        expected_seq: int | None = None,
    ) -> list[Message]:
        """Add messages to a session, all or none, one behind the other; creates the session if there is none.

        Args:
            session_id: Which session.
            messages: One message (or the dict of one) or several. An id that the session holds stores nothing and
                gives back the original, so a retry is safe. None at all creates or touches the session.
            user_id: Who asks; the owner of a session created here.
            agent: Set on a session created here.
            metadata: Merged into the session's at the top level.
            ttl: Seconds or timedelta after the last activity until the session expires; None keeps the setting.
            expected_seq: What the session's ``last_seq`` must be; 0 also means that there is none.

        Returns:
            The messages as stored, with their seqs.

        Raises:
            ConflictError: `expected_seq` does not hold.
            InvalidInputError: A value cannot be stored, or one id comes twice.
            MessageTooLargeError: A message is over 8 MiB.
        """
        records, size = check_messages(messages)
        if metadata:
            size += check_json(check_metadata(metadata), "metadata")
        op = new_append(
            check_id(session_id, "session_id"),
            records,
            check_optional_id(user_id, "user_id"),
            check_optional_id(agent, "agent"),
            None if metadata is None else check_metadata(metadata),
            check_ttl(ttl),
            self._session_ttl,
            check_optional_count(expected_seq, "expected_seq"),
            size,
            None,
            MAX_BYTES,
        )
        async with self.use("append", len(records)) as stack:
            return await stack.append(op)

    async def messages(
        self,
        session_id: str,
        *,
        limit: int | None = None,
        before: int | None = None,
        after: int | None = None,
        user_id: str | None = None,
    ) -> list[Message]:
        """A session's messages, oldest first; ``[]`` if there is no such session.

        Args:
            session_id: Which session.
            limit: How many at most: the newest, below `before` if given; but with `after` alone the oldest above it.
            before: Only seqs below this one.
            after: Only seqs above this one.
            user_id: Who asks.
        """
        op = Read(
            *_who(session_id, user_id),
            check_optional_count(limit, "limit"),
            check_optional_count(before, "before"),
            check_optional_count(after, "after"),
        )
        async with self.use("messages") as stack:
            return await stack.read(op)

    async def find(self, session_id: str, ids: Iterable[str], *, user_id: str | None = None) -> dict[str, Message]:
        """Those of the messages with these ids that the session holds, by id."""
        op = Find(*_who(session_id, user_id), tuple(check_id(item, "ids") for item in ids))
        async with self.use("find") as stack:
            return answered(*await stack.conversations.find([op]))

    async def iter_messages(
        self, session_id: str, *, batch_size: int = 500, user_id: str | None = None
    ) -> AsyncGenerator[Message, None]:
        """All messages of a session, oldest first, in constant memory: `batch_size` are held at a time."""
        batch_size = check_count(batch_size, "batch_size", least=1)
        after: int = 0
        while batch := await self.messages(session_id, limit=batch_size, after=after, user_id=user_id):
            if batch[-1].seq is None:  # pending ones have no place to go on from: what is left comes in one piece
                batch = await self.messages(session_id, after=after, user_id=user_id)
            for message in batch:
                yield message
            if batch[-1].seq is None:
                return
            after = batch[-1].seq

    async def pop(self, session_id: str, count: int = 1, *, user_id: str | None = None) -> list[Message]:
        """Remove the newest `count` messages and give them back, oldest first; ``[]`` if there is no such session."""
        count = check_count(count, "count")
        session_id, user_id = _who(session_id, user_id)
        async with self.use("pop") as stack:
            return await stack.conversations.pop(session_id, count, user_id=user_id)

    async def clear(self, session_id: str, *, user_id: str | None = None) -> int:
        """Remove all messages of a session and keep the session; how many there were."""
        session_id, user_id = _who(session_id, user_id)
        async with self.use("clear") as stack:
            return await stack.conversations.clear(session_id, user_id=user_id)

    # --- sessions ---

    async def session(self, session_id: str, *, user_id: str | None = None) -> Session | None:
        """A session without its messages; None if there is none."""
        op = Head(*_who(session_id, user_id))
        async with self.use("session") as stack:
            return await stack.head(op)

    async def sessions(
        self, *, user_id: str | None = None, agent: str | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[Session]:
        """Sessions by (updated_at, id), newest first.

        Args:
            user_id: Only those of this owner.
            agent: Only those that this agent began.
            limit: How many at most.
            cursor: The ``next_cursor`` of the page before.
        """
        user_id, agent = check_optional_id(user_id, "user_id"), check_optional_id(agent, "agent")
        if cursor is not None:
            check_text(cursor, "cursor")
        listing = Listing(user_id, agent, check_count(limit, "limit", least=1), cursor)
        async with self.use("sessions") as stack:
            return await stack.conversations.list_sessions(listing)

    async def update_session(
        self,
        session_id: str,
        *,
        title: str | Keep | None = KEEP,
        metadata: dict[str, Any] | Keep | None = KEEP,
        ttl: timedelta | float | Keep | None = KEEP,
        user_id: str | None = None,
    ) -> Session:
        """Change a session; what is not given stays as it is.

        Args:
            session_id: Which session.
            title: A new title; None takes it away.
            metadata: Replaces the whole of it (an `append` merges); None empties it.
            ttl: Seconds or timedelta after the last activity; None keeps the session for ever.
            user_id: Who asks.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        if title is not KEEP and title is not None:
            check_text(title, "title")
        change = Change(
            *_who(session_id, user_id),
            title=title,
            metadata=metadata if isinstance(metadata, Keep) else check_metadata({} if metadata is None else metadata),
            ttl=ttl if isinstance(ttl, Keep) else check_ttl(ttl),
        )
        async with self.use("update_session") as stack:
            return await stack.conversations.update(change)

    async def delete_session(self, session_id: str, *, user_id: str | None = None) -> bool:
        """Remove a session with its messages; whether there was one.

        Its id and last seq are kept, so that seqs never come twice.
        """
        session_id, user_id = _who(session_id, user_id)
        async with self.use("delete_session") as stack:
            return await stack.conversations.delete(session_id, user_id=user_id)

    async def purge_expired(self) -> int:
        """Remove expired sessions and keys, which are invisible already; how many there were."""
        async with self.use("purge_expired") as stack:
            return await stack.conversations.purge_sessions() + await stack.state.purge_state()

    async def fork(
        self, session_id: str, new_session_id: str | None = None, *, upto: int | None = None, user_id: str | None = None
    ) -> Session:
        """Copy a session under a new id (a UUIDv7 by default), keeping ids, seqs and owner.

        Args:
            session_id: The session to copy.
            new_session_id: The copy's id.
            upto: The last seq to copy; all by default.
            user_id: Who asks.

        Raises:
            SessionNotFoundError: There is no session to copy.
            ConflictError: There is a session `new_session_id`.
        """
        target = new_id() if new_session_id is None else check_id(new_session_id, "new_session_id")
        upto = check_optional_count(upto, "upto")
        source, messages = await self._whole(session_id, user_id)
        if upto is not None:
            messages = [message for message in messages if (message.seq or 0) <= upto]
        now, ttl = utcnow(), ttl_of(source)
        copy = replace(
            source,
            id=target,
            parent_id=source.id,
            created_at=now,
            updated_at=now,
            expires_at=now + ttl if ttl else None,
            message_count=len(messages),
            last_seq=messages[-1].seq or 0 if messages else 0,
        )
        async with self.use("fork") as stack:
            await stack.conversations.restore(copy, messages)
        return await self._existing(target, user_id)

    async def export_session(self, session_id: str, *, user_id: str | None = None) -> dict[str, Any]:
        """A session with its messages as JSON data, for `import_session`.

        Raises:
            SessionNotFoundError: There is no such session.
        """
        return transfer.pack(*await self._whole(session_id, user_id))

    async def import_session(self, data: dict[str, Any], *, user_id: str | None = None) -> str:
        """Create the session that `export_session` gave, with its ids, seqs, owner and times; its id.

        A session that is there with equal content is left alone.

        Raises:
            ConflictError: It is there with different content.
            InvalidInputError: `data` is no export.
            AccessDeniedError: The export belongs to another user.
        """
        session, messages = transfer.unpack(data, check_optional_id(user_id, "user_id"))
        try:
            async with self.use("import_session") as stack:
                await stack.conversations.restore(session, messages)
        except ConflictError:
            if not transfer.same(await self.export_session(session.id, user_id=user_id), data):
                raise
        return session.id

    async def _whole(self, session_id: str, user_id: str | None) -> tuple[Session, list[Message]]:
        session_id, user_id = _who(session_id, user_id)
        async with self.use("session") as stack:
            return await transfer.whole(stack, session_id, user_id)

    async def _existing(self, session_id: str, user_id: str | None) -> Session:
        return transfer.existing(session_id, await self.session(session_id, user_id=user_id))


def _who(session_id: str, user_id: str | None) -> tuple[str, str | None]:
    return check_id(session_id, "session_id"), check_optional_id(user_id, "user_id")
