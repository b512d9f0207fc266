"""agentstore itself, at its defaults."""

from __future__ import annotations

from agentstore import Message, db


class Agentstore:
    """One Database."""

    def __init__(self, url: str) -> None:
        self._database = db(url)

    async def aopen(self) -> dict[str, str]:
        await self._database.aopen()
        return {"durability": "commit", "pool": "10 connections"}

    async def append(self, session: str, user: str, assistant: str) -> None:
        await self._database.append(session, [Message("user", user), Message("assistant", assistant)])

    async def last(self, session: str, limit: int | None) -> list[str]:
        return [str(message.content) for message in await self._database.messages(session, limit=limit)]

    async def aclose(self) -> None:
        await self._database.aclose()


STORES = {"agentstore": Agentstore}
