"""LangChain's history on Redis: a list per session, one push per message, in one call of its async face."""

from __future__ import annotations

from typing import Any

from langchain_community.chat_message_histories import RedisChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage


class Redis:
    """A history per session; each has a client of its own, for none can be handed in. It loads all messages."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._histories: dict[str, Any] = {}

    async def aopen(self) -> dict[str, str]:
        return {"calls": "its own threads", "newest": "all are read, and cut"}

    def prepare(self, session: str) -> None:
        if session not in self._histories:
            prefix = "benchmark:langchain:"
            self._histories[session] = RedisChatMessageHistory(session, url=self._url, key_prefix=prefix)

    async def append(self, session: str, user: str, assistant: str) -> None:
        await self._histories[session].aadd_messages([HumanMessage(user), AIMessage(assistant)])

    async def last(self, session: str, limit: int | None) -> list[str]:
        messages = await self._histories[session].aget_messages()
        return [str(message.content) for message in (messages if limit is None else messages[-limit:])]

    async def aclose(self) -> None:
        for history in self._histories.values():
            history.redis_client.close()


STORES = {"redis": Redis}
