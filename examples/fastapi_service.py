"""A chat service for many users: one Database and one Agent, shared by all requests of a process.

AGENTSTORE_MODEL=offline uvicorn --factory fastapi_service:create_app --app-dir examples --workers 2

curl localhost:8000/turns -H 'X-User-Id: ann' -H 'Idempotency-Key: r-1' -d '{"session_id": "a", "prompt": "I am Ann"}' \
    -H 'Content-Type: application/json'
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request
from pydantic import BaseModel

from agentstore import Agent, Database, Message, Model, db
from agentstore.errors import InvalidInputError
from agentstore.integrations.fastapi import EventStream, add_error_handlers, events, lifespan
from agentstore.llm.offline import OfflineModel


@dataclass(frozen=True)
class Settings:
    """What the environment says; everything may be left unset."""

    database_url: str | None = os.getenv("DATABASE_URL")
    state_url: str | None = os.getenv("REDIS_URL")
    durability: str = os.getenv("DURABILITY", "commit")
    fallback: str | None = os.getenv("FALLBACK") or None
    model_seconds: str | None = os.getenv("MODEL_SECONDS")  # the offline model, so slow: for a load test

    def database(self) -> Database:
        return db(self.database_url, self.state_url, durability=self.durability, fallback=self.fallback)

    def model(self) -> Model | None:
        return SlowModel(float(self.model_seconds)) if self.model_seconds else None  # None: $AGENTSTORE_MODEL


class SlowModel(OfflineModel):
    """The offline model, taking its time for an answer, and for each piece of one."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def complete(self, messages: Sequence[Message], tools: Sequence[Any]) -> Message:
        await asyncio.sleep(self.seconds)
        return await super().complete(messages, tools)

    async def stream(self, messages: Sequence[Message], tools: Sequence[Any]) -> AsyncIterator[str | Message]:
        async for piece in super().stream(messages, tools):
            yield piece
            await asyncio.sleep(self.seconds)


class Turn(BaseModel):
    """A turn as a client asks for it; the headers X-Session-Id and X-User-Id say the same, and count more."""

    prompt: str | list[Any]
    session_id: str | None = None
    user_id: str | None = None


User = Annotated[str | None, Header(alias="X-User-Id")]  # behind your login this comes from a token


def asked(
    turn: Turn,
    session_id: Annotated[str | None, Header(alias="X-Session-Id")] = None,
    user_id: User = None,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> dict[str, Any]:
    """What `Agent.achat` and `Agent.astream` are called with."""
    session_id = session_id or turn.session_id
    if session_id is None:
        raise InvalidInputError("a turn needs a session_id, in the body or in the header X-Session-Id")
    user_id = user_id or turn.user_id
    return {"prompt": turn.prompt, "session_id": session_id, "user_id": user_id, "message_id": idempotency_key}


def the_agent(request: Request) -> Agent:
    return request.app.state.agent


Asked = Annotated[dict[str, Any], Depends(asked)]
TheAgent = Annotated[Agent, Depends(the_agent)]


def create_app(settings: Settings | None = None, model: Model | None = None) -> FastAPI:
    """The service. Nothing connects before it starts."""
    settings = settings or Settings()
    database = settings.database()
    app = FastAPI(title="Chat", lifespan=lifespan(database))
    app.state.agent = Agent("Assistant", "You are helpful.", model=model or settings.model(), db=database)
    add_error_handlers(app)

    @app.post("/turns")
    async def turn(agent: TheAgent, asked: Asked) -> dict[str, str]:
        return {"answer": await agent.achat(**asked)}

    @app.post("/turns/stream")
    async def stream(agent: TheAgent, asked: Asked) -> EventStream:
        return await events(agent.astream(**asked))

    @app.get("/sessions/{session_id:path}/messages")
    async def history(
        session_id: str,
        user_id: User = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
        before: int | None = None,
    ) -> list[dict[str, Any]]:
        found = await database.messages(session_id, user_id=user_id, limit=limit, before=before)
        return [message.to_dict() for message in found]

    @app.get("/health")
    async def health() -> dict[str, str]:
        await database.ping()
        return {"status": "ok"}

    @app.get("/stats")
    async def stats() -> dict[str, Any]:
        return database.stats().to_dict()

    return app
