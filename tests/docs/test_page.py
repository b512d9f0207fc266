"""What was asked for: the snippets of the page that agentstore replaces work as written there.

Word for word, but for the package's name, and SQLite and JSON files in place of the servers.
"""

import asyncio

import pytest

from agentstore import Agent, Message, ToolCall, db

QUICK_START = """
from praisonaiagents import Agent, db

agent = Agent(
    name="Assistant",
    instructions="You are a helpful assistant.",
    db=db(database_url="sqlite:///conversations.db"),
    session_id="my-session"
)

agent.chat("Hello!")  # Automatically persisted
"""

PRODUCTION = """
from praisonaiagents import Agent, db

agent = Agent(
    name="Assistant", 
    instructions="You are a helpful assistant.",
    db=db(database_url="postgresql://user:pass@localhost/mydb"),
    session_id="production-session"
)

response = agent.chat("Remember my preferences")
# Conversation automatically saved to PostgreSQL
"""  # noqa: W291  as on the page

TWO_BACKENDS = """
from praisonaiagents import Agent, db

# SQL for conversations, Redis for state
agent = Agent(
    name="Assistant",
    db=db(
        database_url="postgresql://localhost/conversations",
        state_url="redis://localhost:6379"
    ),
    session_id="hybrid-session"
)
"""

RESUME = """
# Initial session
agent = Agent(name="Assistant", db=db_instance, session_id="user-123")
agent.chat("My name is Alice")

# Later session - automatically resumes
agent2 = Agent(name="Assistant", db=db_instance, session_id="user-123") 
agent2.chat("What's my name?")  # Knows it's Alice
"""  # noqa: W291  as on the page

ENVIRONMENT = """
import os
from praisonaiagents import Agent, db

# Environment-based configuration
agent = Agent(
    name="ProdAssistant",
    db=db(
        database_url=os.getenv("DATABASE_URL"),
        state_url=os.getenv("REDIS_URL")
    ),
    session_id=f"user-{user_id}"
)
"""

HERE = {
    "praisonaiagents": "agentstore",
    "postgresql://user:pass@localhost/mydb": "sqlite:///conversations.db",
    "postgresql://localhost/conversations": "sqlite:///conversations.db",
    "redis://localhost:6379": "json:///state",
}


async def _gather(pieces) -> str:
    return "".join([piece async for piece in pieces])


# How a person may talk to an agent, as what stands in the page's place of ``agent.chat(``.
WAYS = {
    "chat": lambda agent, prompt: agent.chat(prompt),
    "achat": lambda agent, prompt: asyncio.run(agent.achat(prompt)),
    "stream": lambda agent, prompt: "".join(agent.stream(prompt)),
    "astream": lambda agent, prompt: asyncio.run(_gather(agent.astream(prompt))),
}
way = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSTORE_MODEL", "offline")
    for name in ("AGENTSTORE_DATABASE_URL", "AGENTSTORE_STATE_URL", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.delenv(name, raising=False)


def run(snippet: str, way: str = "chat", **names: object) -> dict[str, object]:
    """Execute a snippet, talking to its agents in that way; its names."""
    for there, here in HERE.items():
        snippet = snippet.replace(there, here)
    for agent in ("agent", "agent2"):
        snippet = snippet.replace(f"{agent}.chat(", f"talk({agent}, ")
    names["talk"] = WAYS[way]
    exec(snippet, names)
    return names


def close_and_read(agent, session_id: str, url: str = "sqlite:///conversations.db") -> list[Message]:
    """What another Database finds after this one was closed."""
    agent.db.close()
    with db(url) as database:
        return database.sync.messages(session_id)


def said(messages: list[Message]) -> list[tuple[str, object]]:
    return [(message.role, message.content) for message in messages]


@way
def test_quick_start(way):
    first = run(QUICK_START, way)
    (prompt, answer) = close_and_read(first["agent"], "my-session")
    assert (prompt.role, prompt.content, answer.role) == ("user", "Hello!", "assistant")
    assert answer.content
    again = run(QUICK_START, way)
    assert [role for role, _ in said(close_and_read(again["agent"], "my-session"))] == ["user", "assistant"] * 2


@way
def test_production(way):
    names = run(PRODUCTION, way)
    messages = close_and_read(names["agent"], "production-session")
    assert said(messages) == [("user", "Remember my preferences"), ("assistant", names["response"])]


@way
def test_two_backends(way, tmp_path):
    agent = run(TWO_BACKENDS)["agent"]
    WAYS[way](agent, "My name is Alice")
    agent.db.sync.state.set("theme", "dark")
    assert len(close_and_read(agent, "hybrid-session")) == 2
    assert "dark" in "".join(path.read_text() for path in (tmp_path / "state").rglob("*.jsonl"))
    with db("json:///state") as other:
        assert other.sync.state.get("theme") == "dark"
        assert other.sync.messages("hybrid-session") == []


@way
def test_resume(way):
    names = run(RESUME, way, Agent=Agent, db_instance=db("sqlite:///conversations.db"))
    messages = close_and_read(names["agent2"], "user-123")
    assert [message.role for message in messages] == ["user", "assistant"] * 2
    assert "Alice" in messages[-1].content


@way
@pytest.mark.parametrize("is_set", [True, False])
def test_environment(way, is_set, monkeypatch):
    if is_set:
        monkeypatch.setenv("DATABASE_URL", "sqlite:///production.db")
        monkeypatch.setenv("REDIS_URL", "json:///state")
    agent = run(ENVIRONMENT, user_id=42)["agent"]
    WAYS[way](agent, "Hello!")
    url = "sqlite:///production.db" if is_set else "sqlite:///agentstore.db"
    assert [role for role, _ in said(close_and_read(agent, "user-42", url))] == ["user", "assistant"]


@way
def test_tools(way):
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"Sunny in {city}"

    def model(messages: list[Message]) -> Message | str:
        if messages[-1].role == "tool":
            return f"They say: {messages[-1].content}"
        return Message("assistant", "", tool_calls=(ToolCall("c", "weather", '{"city": "Bern"}'),))

    database = db("sqlite:///conversations.db")
    agent = Agent("Assistant", model=model, db=database, session_id="tools", tools=[weather])
    for _ in range(2):
        assert WAYS[way](agent, "Rain?") == "They say: Sunny in Bern"
    messages = close_and_read(agent, "tools")
    turn = [("user", "Rain?"), ("assistant", ""), ("tool", "Sunny in Bern"), ("assistant", "They say: Sunny in Bern")]
    assert said(messages) == turn * 2
    assert messages[1].tool_calls[0].arguments == '{"city": "Bern"}'
    assert messages[2].tool_call_id == messages[1].tool_calls[0].id
