"""How an Agent is made, and what its model may be."""

import asyncio
import functools
import threading

import pytest
from agent_kit import Scripted

from agentstore import ConfigurationError, InvalidInputError, Message, db
from agentstore.agent import Agent
from agentstore.llm import Model, resolve
from agentstore.llm.offline import OfflineModel

# --- construction ---


def test_without_a_database_and_a_session_id_memory_serves():
    one, two = Agent("A", model="offline"), Agent("A", model="offline")
    assert one.session_id != two.session_id
    one.chat("hello")
    assert (len(one.history()), len(two.history())) == (2, 0)


def test_with_a_session_id_alone_the_default_store_serves(tmp_path, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_HOME", str(tmp_path))
    with Agent("A", model="offline", session_id="s").db as database:
        Agent("A", model="offline", db=database, session_id="s").chat("my name is Ann")
    again = Agent("A", model="offline", session_id="s")
    assert again.chat("what's my name?") == "Your name is Ann."
    again.db.close()
    assert (tmp_path / "sessions").is_dir()


def test_a_database_without_a_session_id_gets_a_fresh_one(database):
    assert Agent("A", model="offline", db=database).session_id


@pytest.mark.parametrize("wrong", [db, "sqlite:///x.db", {}])
def test_db_takes_a_database_only(wrong):
    with pytest.raises(ConfigurationError, match="database_url"):
        Agent("A", model="offline", db=wrong)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": ""}, InvalidInputError),
        ({"session_id": "a\0b"}, InvalidInputError),
        ({"session_id": ""}, InvalidInputError),
        ({"user_id": 3}, InvalidInputError),
        ({"history_limit": -1}, InvalidInputError),
        ({"metadata": {"x": float("nan")}}, InvalidInputError),
        ({"instructions": None}, ConfigurationError),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        Agent(**{"name": "A", "model": "offline", **arguments})


@pytest.mark.parametrize("call", [{"prompt": 3}, {"prompt": None}, {"session_id": ""}, {"message_id": "\0"}])
def test_wrong_prompts_are_refused_at_once(call):
    agent = Agent("A", model="offline")
    for method in (agent.chat, agent.stream, agent.astream):
        with pytest.raises(InvalidInputError):
            method(**{"prompt": "x", **call})


# --- the model ---


def test_the_model_comes_from_the_environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("AGENTSTORE_MODEL", raising=False)
    with pytest.raises(ConfigurationError, match=r"neither AGENTSTORE_MODEL nor OPENAI_API_KEY"):
        Agent("A")
    with pytest.raises(ConfigurationError, match="needs OPENAI_API_KEY"):
        resolve("openai:x")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-fake")
    assert repr(resolve(None)) == "OpenAIModel('gpt-4o-mini')"
    monkeypatch.setenv("AGENTSTORE_MODEL", "offline")
    assert isinstance(resolve(None), OfflineModel)
    assert repr(resolve("openai:gpt:x")) == "OpenAIModel('gpt:x')"


def test_a_missing_openai_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'agentstore\[openai\]'"):
        resolve("openai:x")


@pytest.mark.parametrize("wrong", ["gpt-4o", "openai:", "Offline", 3, Scripted, object()])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="Model"):
        resolve(wrong)


class Thinker:
    async def __call__(self, messages):
        return f"{len(messages)}"


async def _async_model(messages):
    return f"{len(messages)}"


@pytest.mark.parametrize(
    "model",
    [
        lambda m: f"{len(m)}",
        _async_model,
        Thinker(),
        functools.partial(_async_model),
        lambda m: Message("assistant", "1"),
    ],
)
def test_callables_are_models(model):
    agent = Agent("A", model=model)
    assert isinstance(resolve(model), Model)
    assert agent.chat("hello") == "1"
    assert list(agent.stream("x", session_id="other")) == ["1"]


def test_a_sync_model_does_not_block_the_loop():
    beat = threading.Event()

    async def main():
        agent = Agent("A", model=lambda _: str(beat.wait(60)))
        turn = asyncio.create_task(agent.achat("hello"))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(beat.set)
        return await turn

    assert asyncio.run(main()) == "True"
