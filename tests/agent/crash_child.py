"""A turn that stands still at one stage, saying so, until it is killed: ``crash_child.py URL STAGE [MESSAGE_ID]``."""

import asyncio
import sys

from agentstore import Message, ToolCall, db
from agentstore.agent import Agent
from agentstore.llm import Model

URL, STAGE, *MESSAGE_ID = sys.argv[1:]

database = db(URL)
append = database.append
prompt_saved = asyncio.Event()


async def reached(stage):
    if stage == STAGE:
        print(stage, flush=True)  # noqa: T201  the parent waits for it
        await asyncio.Event().wait()


async def watched(session_id, messages, **options):
    first = messages[0]
    what = "call" if first.tool_calls else {"user": "prompt", "tool": "result", "assistant": "answer"}[first.role]
    await reached(f"before {what}")
    stored = await append(session_id, messages, **options)
    await reached(f"after {what}")
    if first.role == "user":
        prompt_saved.set()
    return stored


class Calculator(Model):
    async def complete(self, messages, tools):
        if STAGE == "model":
            await prompt_saved.wait()
            await reached("model")
        if messages[-1].role == "tool":
            return Message("assistant", f"it is {messages[-1].content}")
        return Message("assistant", "let me see", tool_calls=[ToolCall("c1", "add", '{"a": 1, "b": 2}')])

    async def stream(self, messages, tools):
        whole = await self.complete(messages, tools)
        yield whole.content
        yield whole


async def add(a: int, b: int) -> int:
    await reached("tool")
    return a + b


database.append = watched
agent = Agent("A", model=Calculator(), db=database, session_id="s", tools=[add])


async def main():
    async for _ in agent.astream("1 + 2?", message_id=MESSAGE_ID[0] if MESSAGE_ID else None):
        await reached("piece")


asyncio.run(main())
