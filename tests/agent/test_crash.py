"""A process that is killed at any stage of a turn: the session goes on, and the prompt is there once."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agent_kit import Scripted

from agentstore import db
from agentstore.agent import Agent
from agentstore.view import view

CHILD = Path(__file__).with_name("crash_child.py")
PROMPT = "1 + 2?"

STORED = {
    "before prompt": [],
    "after prompt": ["user"],
    "model": ["user"],
    "piece": ["user"],
    "before call": ["user"],
    "after call": ["user", "assistant"],
    "tool": ["user", "assistant"],
    "before result": ["user", "assistant"],
    "after result": ["user", "assistant", "tool"],
    "before answer": ["user", "assistant", "tool"],
    "after answer": ["user", "assistant", "tool", "assistant"],
}


@pytest.fixture(params=["sqlite", "json"])
def url(request, tmp_path):
    return f"{request.param}:///{tmp_path}/store{'.db' if request.param == 'sqlite' else ''}"


def killed_at(stage, url, *arguments):
    with subprocess.Popen([sys.executable, CHILD, url, stage, *arguments], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline().strip() == stage
        child.kill()
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize("message_id", [None, "m1"])
@pytest.mark.parametrize("stage", STORED)
def test_killed_and_resumed(stage, url, message_id):
    killed_at(stage, url, *([message_id] if message_id else []))
    with db(url) as database:
        before = database.sync.messages("s")
        assert [m.role for m in before] == STORED[stage]

        model = Scripted("it is 3", "4")
        agent = Agent("A", "be exact", model=model, db=database, session_id="s")
        answered = stage == "after answer"
        if not answered or message_id:
            assert agent.chat(PROMPT, message_id=message_id) == "it is 3"
        assert agent.chat("and plus one?") == ("it is 3" if answered else "4")

        stored = agent.history()
        assert [m.content for m in stored if m.role == "user"] == [PROMPT, "and plus one?"]
        assert stored[: len(before)] == before
        assert len({m.run_id for m in stored[:-2]}) == 1
        assert len(model.seen) == (1 if answered else 2)
        for seen in model.seen:
            assert seen == [seen[0], *view(seen[1:])]  # nothing in it that a model would refuse
            calls = [call.id for message in seen for call in message.tool_calls]
            assert calls == [m.tool_call_id for m in seen if m.role == "tool"]
            assert calls == (["c1"] if "tool" in STORED[stage] else [])
