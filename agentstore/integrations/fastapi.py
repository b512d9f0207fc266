"""A FastAPI service on one Database: its life, its errors as HTTP answers, an Agent's stream as server-sent events.

Needs ``pip install 'agentstore[fastapi]'``. A whole service is ``examples/fastapi_service.py``.
"""

from __future__ import annotations

import json
import logging
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

from agentstore.errors import (
    AccessDeniedError,
    AgentstoreError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    MessageTooLargeError,
    QueueFullError,
    SessionNotFoundError,
    UnavailableError,
)

try:
    from fastapi.responses import JSONResponse, StreamingResponse
except ImportError as missing:
    raise ConfigurationError(
        "agentstore.integrations.fastapi needs the package fastapi", hint="pip install 'agentstore[fastapi]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from fastapi import FastAPI, Request
    from starlette.types import Receive, Scope, Send

    from agentstore.database import Database

RETRY_AFTER = 1
"""Seconds after which a caller who got a 503 may ask again."""

STATUSES: dict[type[AgentstoreError], int] = {
    AccessDeniedError: 403,
    SessionNotFoundError: 404,
    ConflictError: 409,
    MessageTooLargeError: 413,
    InvalidInputError: 422,
    UnavailableError: 503,
    QueueFullError: 503,
    ClosedError: 503,
}
"""The HTTP status of an error, by its nearest class here; of any other it is 500."""

_INSIDE = {
    500: "the service cannot read or write its store; its log says why",
    503: "the service cannot use its store now; send the request again, with the same Idempotency-Key",
}
"""What a client is told instead of an error's own text, which names servers."""

_log = logging.getLogger("agentstore")


def lifespan(database: Database) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A FastAPI ``lifespan`` that opens the Database before the first request and closes it after the last.

    A backend that is away does not keep the service from starting: it is opened at the first use then. At the end what
    is pending is committed, for up to ``QueueOptions.close_timeout``; what is left stays in the journal.
    """

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncGenerator[None, None]:  # noqa: ARG001  FastAPI passes it
        try:
            await database.aopen()
        except UnavailableError as error:
            _log.warning("the service starts without its store: %s", error)
        try:
            yield
        finally:
            await database.aclose()

    return life


def add_error_handlers(app: FastAPI) -> None:
    """Answer every `AgentstoreError` of a request by its status in `STATUSES`.

    The body is ``{"error": class, "message": text}``, with ``retry_after`` in seconds for a 503, which has the header
    ``Retry-After`` too.
    """
    app.add_exception_handler(AgentstoreError, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    status = status_of(error)
    if status in _INSIDE:
        _log.error("%s %s: %s: %s", request.method, request.url.path, type(error).__name__, error)
    headers = {"Retry-After": str(RETRY_AFTER)} if status == 503 else None  # noqa: PLR2004  a known number
    return JSONResponse(told(error), status, headers)


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def told(error: Exception) -> dict[str, Any]:
    """What a client is told of an error."""
    status = status_of(error)
    body: dict[str, Any] = {"error": type(error).__name__, "message": _INSIDE.get(status) or str(error)}
    return body | {"retry_after": RETRY_AFTER} if status == 503 else body  # noqa: PLR2004  a known number


class EventStream(StreamingResponse):
    """The pieces of a text as server-sent events, made by `events`.

    A client that goes ends the pieces at once: an Agent then stores the text so far, as interrupted.
    """

    media_type = "text/event-stream"

    def __init__(self, first: str | None, pieces: AsyncGenerator[str, None]) -> None:
        self._pieces = pieces
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(_events(first, pieces), headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; the pieces are closed before this returns."""
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


async def events(pieces: AsyncGenerator[str, None]) -> EventStream:
    """The response that streams `pieces` (of `Agent.astream`): ``data: {"text": ...}`` each, then ``event: done``.

    It waits for the first piece, so that an error before it is answered by its status. A later one comes as ``event:
    error`` with the body of `add_error_handlers`, and then the stream ends. ``done`` says that all is durable.
    """
    return EventStream(await anext(pieces, None), pieces)


async def _events(first: str | None, pieces: AsyncGenerator[str, None]) -> AsyncGenerator[str, None]:
    try:
        if first is not None:
            yield _event({"text": first})
        async for piece in pieces:
            yield _event({"text": piece})
    except AgentstoreError as error:
        _log.warning("a stream ended: %s: %s", type(error).__name__, error)
        yield _event(told(error), "error")
    else:
        yield _event({}, "done")


def _event(data: dict[str, Any], name: str = "") -> str:
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"
