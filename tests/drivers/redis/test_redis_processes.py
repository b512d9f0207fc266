"""Many processes on one session, one key, one empty store."""

import pytest

from agentstore import db
from agentstore.testing.processes import together

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ["redis", "redis-cluster"])
async def test_four_processes_of_two_hundred_appends_to_one_session(fresh, kind):
    url = fresh(kind)
    await together(url, "append", 200)  # of two messages each, four at a time
    async with db(url) as database:
        messages = await database.messages("s")
        assert [message.seq for message in messages] == list(range(1, 1601))
        said = [message.content for message in messages]
        assert len(set(said)) == 1600
        for first, second in zip(said[::2], said[1::2], strict=True):
            assert first.rpartition(":")[0] == second.rpartition(":")[0], "contiguous"
        for writer in {text.partition(":")[0] for text in said}:
            own = [text for text in said if text.startswith(f"{writer}:")]
            assert own == [f"{writer}:{number}:{part}" for number in range(50) for part in range(2)]
        assert (await database.session("s")).message_count == 1600
        assert len((await database.sessions()).items) == 1
