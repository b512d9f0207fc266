from dataclasses import replace
from datetime import timedelta

import pytest

from agentstore import Message, QueueOptions
from agentstore.errors import AgentstoreError
from agentstore.protocol import Find, GetItems
from agentstore.queue.deferred import DeferredAppends, DeferredWrites
from agentstore.testing import StoreContract


def _store_of(way):
    """Where a way past the queue leads."""
    return way._direct._grouping._run.args[0].__self__


@pytest.fixture
def settled(monkeypatch):
    """Deferred writes that answer as committed ones do: the whole way through the queue, and then the seqs."""
    accept_append, accept_write = DeferredAppends.submit, DeferredWrites.submit

    async def append(self, op):
        queue = self._queue
        before = queue.events.rejected
        given = await accept_append(self, op)
        if given and given[0].seq is not None:
            return given
        await queue.passed(queue.log, op.session_id)
        if queue.events.rejected > before:
            await queue.flush()  # raises
        (found,) = await _store_of(self).find([Find(op.session_id, ids=tuple(m.id for m in op.messages))])
        if isinstance(found, AgentstoreError):
            raise found
        return [found.get(m.id, m) for m in op.messages]

    async def write(self, op):
        queue = self._queue
        answer = await accept_write(self, op)
        if answer:
            return answer
        await queue.passed(queue.state, op.namespace)
        key = list(getattr(op, "items", {"": 0}))[-1]
        (found,) = await _store_of(self).get_items([GetItems(op.namespace, (key,))])
        return found[key].version if key in found else answer

    monkeypatch.setattr(DeferredAppends, "submit", append)
    monkeypatch.setattr(DeferredWrites, "submit", write)


class Deferred(StoreContract):
    durability = "memory"

    @pytest.fixture
    def database_url(self, tmp_path):
        return f"sqlite:///{tmp_path}/store.db"

    @pytest.fixture
    def options(self, tmp_path):
        return {"durability": self.durability, "queue": QueueOptions(journal_dir=tmp_path / "journal")}


@pytest.mark.usefixtures("settled")
class TestSettledMemory(Deferred):
    async def test_a_retry_stores_nothing(self, database):
        sent = [Message("user", text) for text in ("one", "two")]
        stored = await database.append("s", sent)
        await database.append("s", Message("user", "three"))
        head = await database.session("s")
        for repeated, answer in ((sent, stored), (sent[1], stored[1:]), (sent[::-1], stored[::-1])):
            assert await database.append("s", repeated) == answer
        assert [m.content for m in await database.messages("s")] == ["one", "two", "three"]
        after = await database.session("s")
        assert replace(after, updated_at=head.updated_at) == head
        # that each write has come is marked in the session, and moves it by the least step there is
        assert after.updated_at - head.updated_at == timedelta(microseconds=3)
