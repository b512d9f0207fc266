"""Models with a script, for the tests of this folder."""

from agentstore import Message, ToolCall
from agentstore.llm import Model


def calls(*wanted, content=""):
    """An assistant's message that asks for tools: (name, arguments) or (name, arguments, id) each."""
    made = [ToolCall(item[2] if len(item) > 2 else f"c{n}", item[0], item[1]) for n, item in enumerate(wanted)]
    return Message("assistant", content, tool_calls=made)


class Scripted(Model):
    """Gives its replies in order, and keeps what it was shown and offered."""

    def __init__(self, *replies, log=None):
        self.replies = list(replies)
        self.seen = []
        self.offered = []
        self.log = log if log is not None else []

    async def complete(self, messages, tools):
        self.seen.append(list(messages))
        self.offered.append([tool.name for tool in tools])
        self.log.append(("model", len(self.seen)))
        reply = self.replies.pop(0)
        if isinstance(reply, BaseException):
            raise reply
        return Message("assistant", reply) if isinstance(reply, str) else reply

    async def stream(self, messages, tools):
        whole = await self.complete(messages, tools)
        for word in whole.content.split(" "):
            yield word
        yield whole


def told(messages):
    """(role, content) of each message."""
    return [(message.role, message.content) for message in messages]
