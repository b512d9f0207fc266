"""Random walks through the whole surface, compared with a model made of plain dicts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agentstore.database import db
from agentstore.errors import AccessDeniedError, ConflictError, InvalidInputError, SessionNotFoundError
from agentstore.records import Message, new_id

from .common import Contract, assert_rising, assert_same, seqs
from .reads import expected
from .texts import EXAMPLES, objects, texts, values

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentstore.database import Database

T = TypeVar("T")

names = st.sampled_from(["a", "A", "a/b"])
users = st.sampled_from([None, None, "u", "v"])
message_ids = st.lists(st.sampled_from([f"m{number}" for number in range(8)]), unique=True, max_size=4)
keys = st.sampled_from(["k", "K", "k%", "\uffff", "\U00010000"])
places = st.integers(-1, 6)


@dataclass
class Talk:
    """A session of the model."""

    owner: str | None
    metadata: dict[str, Any] = field(default_factory=dict)
    title: str | None = None
    messages: list[Message] = field(default_factory=list)
    last_seq: int = 0


class StoreMachine(RuleBasedStateMachine):
    """One walk: sessions and keys of its own in a store that all walks share."""

    def __init__(self, database: Database, run: Callable[[Awaitable[Any]], Any]) -> None:
        super().__init__()
        self.database, self.run = database, run
        self.walk = new_id()
        self.state = database.state.scope(self.walk)
        self.talks: dict[str, Talk] = {}
        self.floors: dict[str, int] = {}
        self.items: dict[str, tuple[Any, int]] = {}
        self.versions: dict[str, int] = {}

    def name(self, session: str) -> str:
        """The session's id in the store."""
        return f"{self.walk} {session}"

    def denied(self, session: str, user: str | None, call: Awaitable[Any]) -> bool:
        """Whether the session is somebody else's; then the call fails."""
        talk = self.talks.get(session)
        if talk is None or talk.owner is None or user in {None, talk.owner}:
            return False
        with pytest.raises(AccessDeniedError):
            self.run(call)
        return True

    def sync_head(self, session: str) -> None:
        """A removal has consumed a seq."""
        head = self.run(self.database.session(self.name(session)))
        assert head.last_seq > self.talks[session].last_seq
        self.talks[session].last_seq = self.floors[session] = head.last_seq

    # --- sessions ---

    @rule(session=names, user=users, ids=message_ids, content=texts, metadata=st.none() | objects, expect=places)
    def append(  # noqa: PLR0917  hypothesis passes keywords
        self, session: str, user: str | None, ids: list[str], content: str, metadata: dict[str, Any] | None, expect: int
    ) -> None:
        talk = self.talks.get(session)
        last_seq = talk.last_seq if talk else 0
        expected_seq = {0: last_seq, 1: last_seq + 1}.get(expect)
        sent = [Message("user", content, id=name) for name in ids]
        call = self.database.append(
            self.name(session), sent, user_id=user, agent=self.walk, metadata=metadata, expected_seq=expected_seq
        )
        if self.denied(session, user, call):
            return
        known = {message.id: message for message in talk.messages} if talk else {}
        fresh = [name for name in ids if name not in known]
        if expected_seq not in {None, last_seq} and (fresh or not ids):
            with pytest.raises(ConflictError):
                self.run(call)
            return
        stored = self.run(call)
        if ids and not fresh:
            assert stored == [known[name] for name in ids]
            return
        if talk is None:
            talk = self.talks[session] = Talk(user)
        added = [message for message in stored if message.id in fresh]
        assert [message.id for message in stored] == ids
        assert [message for message in stored if message.id in known] == [known[n] for n in ids if n in known]
        assert all(message.content == content for message in added)
        assert_rising(added)
        assert all(seq > self.floors.get(session, 0) for seq in seqs(added))
        talk.messages += added
        talk.metadata = {**talk.metadata, **(metadata or {})}
        if added:
            talk.last_seq = self.floors[session] = seqs(added)[-1]
        else:
            talk.last_seq = self.run(self.database.session(self.name(session))).last_seq

    @rule(session=names, user=users, count=st.integers(0, 5))
    def pop(self, session: str, user: str | None, count: int) -> None:
        call = self.database.pop(self.name(session), count, user_id=user)
        if self.denied(session, user, call):
            return
        talk = self.talks.get(session)
        gone = talk.messages[max(0, len(talk.messages) - count) :] if talk else []
        assert self.run(call) == gone
        if talk and gone:
            del talk.messages[-len(gone) :]
            self.sync_head(session)

    @rule(session=names, user=users)
    def clear(self, session: str, user: str | None) -> None:
        call = self.database.clear(self.name(session), user_id=user)
        if self.denied(session, user, call):
            return
        talk = self.talks.get(session)
        assert self.run(call) == (len(talk.messages) if talk else 0)
        if talk and talk.messages:
            talk.messages.clear()
            self.sync_head(session)

    @rule(session=names, user=users)
    def delete(self, session: str, user: str | None) -> None:
        call = self.database.delete_session(self.name(session), user_id=user)
        if not self.denied(session, user, call):
            assert self.run(call) is (self.talks.pop(session, None) is not None)

    @rule(session=names, user=users, title=st.none() | texts, metadata=objects, what=st.integers(0, 3))
    def update(self, session: str, user: str | None, title: str | None, metadata: dict[str, Any], what: int) -> None:
        changes: dict[str, Any] = {
            **({"title": title} if what & 1 else {}),
            **({"metadata": metadata} if what & 2 else {}),
        }
        call = self.database.update_session(self.name(session), user_id=user, **changes)
        if self.denied(session, user, call):
            return
        talk = self.talks.get(session)
        if talk is None:
            with pytest.raises(SessionNotFoundError):
                self.run(call)
            return
        self.run(call)
        for name, value in changes.items():
            setattr(talk, name, value)

    @rule(session=names, copy=names, place=places)
    def fork(self, session: str, copy: str, place: int) -> None:
        talk = self.talks.get(session)
        upto = seqs(talk.messages[place : place + 1])[0] if talk and 0 <= place < len(talk.messages) else None
        call = self.database.fork(self.name(session), self.name(copy), upto=upto)
        if talk is None or copy in self.talks:
            with pytest.raises(ConflictError if talk else SessionNotFoundError):
                self.run(call)
            return
        fork = self.run(call)
        copied = expected(talk.messages, None, None if upto is None else upto + 1, None)
        self.talks[copy] = Talk(talk.owner, dict(talk.metadata), fork.title, copied, fork.last_seq)
        self.floors[copy] = max(self.floors.get(copy, 0), fork.last_seq)

    @rule(session=names, removed=st.booleans())
    def export_and_import(self, session: str, removed: bool) -> None:  # noqa: FBT001  hypothesis passes keywords
        if session in self.talks:
            export = self.run(self.database.export_session(self.name(session)))
            if removed:
                self.run(self.database.delete_session(self.name(session)))
            assert self.run(self.database.import_session(export)) == self.name(session)
            assert self.run(self.database.export_session(self.name(session))) == export

    @rule(session=names, limit=st.none() | st.integers(0, 5), before=places, after=places)
    def read(self, session: str, limit: int | None, before: int, after: int) -> None:
        messages = self.talks[session].messages if session in self.talks else []
        bounds = [seqs(messages)[place] if 0 <= place < len(messages) else None for place in (before, after)]
        call = self.database.messages(self.name(session), limit=limit, before=bounds[0], after=bounds[1])
        assert self.run(call) == expected(messages, limit, *bounds)

    # --- state ---

    @rule(key=keys, value=st.integers() | values | st.binary(max_size=9), check=places)
    def set(self, key: str, value: Any, check: int) -> None:
        version = self.items[key][1] if key in self.items else 0
        if_version = {0: version, 1: version + 1, 2: 0}.get(check)
        call = self.state.set(key, value, if_version=if_version)
        if if_version not in {None, version}:
            with pytest.raises(ConflictError):
                self.run(call)
            return
        new = self.run(call)
        assert new > self.versions.get(key, 0)
        self.items[key] = value, new
        self.versions[key] = new

    @rule(chosen=st.lists(keys, unique=True))
    def delete_keys(self, chosen: list[str]) -> None:
        found = [key for key in chosen if self.items.pop(key, None)]
        assert self.run(self.state.delete_many(chosen)) == len(found)

    @rule(key=keys, by=st.integers())
    def increment(self, key: str, by: int) -> None:
        value = self.items[key][0] if key in self.items else 0
        if type(value) is not int:
            with pytest.raises(InvalidInputError):
                self.run(self.state.increment(key, by))
            return
        assert self.run(self.state.increment(key, by)) == value + by
        (item,) = [item for item in self.run(self.state.scan(key)) if item.key == key]
        assert item.version > self.versions.get(key, 0)
        self.items[key] = item.value, item.version
        self.versions[key] = item.version

    # --- what always holds ---

    @invariant()
    def sessions_are_those_of_the_model(self) -> None:
        listed = {session.id: session for session in self.run(self.database.sessions(agent=self.walk)).items}
        for session in ("a", "A", "a/b"):
            head = self.run(self.database.session(self.name(session)))
            assert listed.get(self.name(session)) == head
            talk = self.talks.get(session)
            assert (head is None) == (talk is None)
            if head and talk:
                assert (head.user_id, head.title, head.last_seq) == (talk.owner, talk.title, talk.last_seq)
                assert head.message_count == len(talk.messages)
                assert_same(head.metadata, talk.metadata)
                assert self.run(self.database.messages(self.name(session))) == talk.messages

    @invariant()
    def items_are_those_of_the_model(self) -> None:
        found = self.run(self.state.scan())
        assert [item.key for item in found] == sorted(self.items)
        for item in found:
            value, version = self.items[item.key]
            assert_same(item.value, value)
            assert item.version == version


class ModelContract(Contract):
    """The store does what a few dicts would do."""

    def test_random_walks(self, database_url: str, options: dict[str, Any]) -> None:
        with asyncio.Runner() as runner:

            async def finish(call: Awaitable[T]) -> T:
                return await call

            def run(call: Awaitable[T]) -> T:
                return runner.run(finish(call))

            database = db(database_url, **options)
            try:
                run_state_machine_as_test(
                    lambda: StoreMachine(database, run),  # type: ignore[arg-type] # any factory will do
                    settings=settings(EXAMPLES, max_examples=25, stateful_step_count=25),
                )
            finally:
                run(database.aclose())
