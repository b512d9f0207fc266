"""The questions in the documentation, asked of the server and of the current engine."""

import re
from pathlib import Path

import embedded_engine
import pytest

from agentstore import Message, db
from agentstore.drivers import registry
from servers.clickhouse import execute

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[3] / "docs" / "backends" / "clickhouse.md"
QUESTIONS = re.findall(r"^```text\n(SELECT .*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(params=["server", "current engine"])
def place(request, fresh, monkeypatch):
    """The URL of an empty store, and a way to ask it."""
    if request.param == "server":
        url = fresh("clickhouse")
        yield url, lambda question: execute(url, question)
        return
    monkeypatch.setitem(registry._DRIVERS, embedded_engine.SCHEME, embedded_engine.SPEC)
    name = "test_documentation"
    yield f"{embedded_engine.SCHEME}://localhost/{name}", lambda question: embedded_engine.run(name, question).result()
    embedded_engine.run("default", f"DROP DATABASE {name}").result()


async def test_the_questions_are_answered(place):
    url, ask = place
    async with db(url) as database:
        for session_id, user_id in (("a", "ann"), ("b", "ann"), ("c", "bob"), ("gone", "bob")):
            said = [Message("user", "hello", run_id=session_id), Message("tool", "1234", name="count")]
            await database.append(session_id, said, user_id=user_id)
        await database.append("c", [Message("user", "more"), Message("user", "popped")])
        await database.pop("c")
        await database.delete_session("gone")
    days, tools, users = (list(map(tuple, ask(question))) for question in QUESTIONS)
    assert [sum(counts) for counts in zip(*(day[1:] for day in days), strict=True)][2] == 7
    assert [(name, answers, size) for name, answers, size in tools] == [("count", 3, 4.0)]
    assert users == [("ann", 2, 4), ("bob", 1, 3)]
