"""Agent: talks through a model, and keeps every word in a Database."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from . import checks
from .database import Database, DefaultSessionStore
from .database import db as open_database
from .errors import ConfigurationError, InvalidInputError
from .llm import resolve
from .locks import locks
from .records import new_id
from .sync import iterate_blocking, run_blocking
from .tools import tools_by_name
from .turns import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Iterable

    from .llm import Model
    from .records import Message


class Agent:
    """Answers prompts, remembering the session's conversation over restarts.

    Making one does no I/O and binds it to no event loop; one Agent may serve many sessions, threads and loops at once.
    Turns on one session run one after the other.

    Args:
        name: The sessions that it begins carry it as their ``agent``.
        instructions: What the model is told first; never stored.
        model: A sync or async function of the messages that gives a ``str`` or a `Message`, a `Model`,
            ``"openai:NAME"``, or ``"offline"``. None is ``$AGENTSTORE_MODEL``, else OpenAI's if there is a key.
        db: Where conversations live, made by ``db(...)``. None is the `DefaultSessionStore` if there is a
            `session_id`, else this process's memory.
        session_id: The session of calls that name none; a fresh one by default.
        user_id: The user of calls that name none.
        tools: Typed functions, sync or async, that the model may call.
        history_limit: How many earlier messages the model sees at most.
        metadata: Merged into the session's metadata with each prompt.

    Raises:
        ConfigurationError: There is no model, or an argument is of the wrong kind.
        InvalidInputError: A value cannot be stored.
    """

    def __init__(
        self,
        name: str,
        instructions: str = "",
        *,
        model: Model | Callable[[list[Message]], Any] | str | None = None,
        db: Database | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        tools: Iterable[Callable[..., Any]] = (),
        history_limit: int = 100,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if db is not None and not isinstance(db, Database):
            raise ConfigurationError(
                f"Agent(db=...) takes a Database, not {type(db).__name__}",
                hint='Write db=db(database_url="sqlite:///conversations.db")',
            )
        if not isinstance(instructions, str):
            raise ConfigurationError(f"instructions must be a str, not {type(instructions).__name__}")
        self.name = checks.check_id(name, "name")
        self.instructions = instructions
        self.user_id = checks.check_optional_id(user_id, "user_id")
        self.history_limit = checks.check_count(history_limit, "history_limit")
        self.metadata = None if metadata is None else checks.check_metadata(metadata)
        checks.check_optional_id(session_id, "session_id")
        self._tools = tools_by_name(tools)
        self._model = resolve(model)
        if db is None:
            db = open_database("memory:", "memory:") if session_id is None else DefaultSessionStore()
        self.db = db
        self.session_id = session_id or new_id()

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, session_id={self.session_id!r}, db={self.db!r})"

    # --- a turn ---

    def chat(
        self,
        prompt: str | list[Any],
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        message_id: str | None = None,
    ) -> str:
        """Answer a prompt; when this returns, prompt and answer are durable.

        A prompt that the session ends with, unanswered (the process died, say), is answered now and not stored twice.
        The text of a stream that was closed early ends its turn: the same prompt begins a new one.

        Args:
            prompt: What the user says: text, or a list of JSON parts.
            session_id: The session, if not the Agent's.
            user_id: The user, if not the Agent's.
            message_id: Makes the turn idempotent: the user's message gets this id, and a turn of this id that was
                answered before gives the stored answer, without asking the model. An interrupted text is no answer:
                the turn goes on and is answered in full, the text staying in the history.

        Raises:
            AccessDeniedError: The session belongs to another user.
            UnavailableError: The backend or the model's server cannot be used.
            AgentstoreError: The model ended with a SystemExit or the like. Its ordinary exceptions come as they are.
            RuntimeError: The turn would never end: an async turn on this session runs on the event loop that this
                call would block, or the session's turn waits for the model or tool that this call is made in.
        """
        turn = self._turn(prompt, session_id, user_id, message_id)
        caller = _check_may_block(turn)
        return run_blocking(lambda: turn.complete(caller))

    async def achat(
        self,
        prompt: str | list[Any],
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        message_id: str | None = None,
    ) -> str:
        """`chat`, awaited."""
        return await self._turn(prompt, session_id, user_id, message_id).complete(asyncio.current_task())

    def stream(
        self,
        prompt: str | list[Any],
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        message_id: str | None = None,
    ) -> Generator[str, None, None]:
        """`chat`, giving the text in pieces as it comes; at the iterator's end all is durable.

        An iterator that is closed or dropped before its end stores the text so far, marked ``interrupted`` in the
        message's metadata. The model sees it in later turns, until its own is answered after all (`chat` says when).
        """
        return _stream(self._turn(prompt, session_id, user_id, message_id))

    def astream(
        self,
        prompt: str | list[Any],
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        message_id: str | None = None,
    ) -> AsyncGenerator[str, None]:
        """`stream`, as an async iterator: close it (``contextlib.aclosing``) if you leave it early."""
        return self._turn(prompt, session_id, user_id, message_id).stream()

    # --- the history ---

    def history(
        self, *, session_id: str | None = None, user_id: str | None = None, limit: int | None = None
    ) -> list[Message]:
        """The session's messages as stored, oldest first; with `limit` the newest so many."""
        return run_blocking(lambda: self.ahistory(session_id=session_id, user_id=user_id, limit=limit))

    async def ahistory(
        self, *, session_id: str | None = None, user_id: str | None = None, limit: int | None = None
    ) -> list[Message]:
        """`history`, awaited."""
        session_id, user_id = self._whose(session_id, user_id)
        return await self.db.messages(session_id, user_id=user_id, limit=limit)

    # --- inside ---

    def _whose(self, session_id: str | None, user_id: str | None) -> tuple[str, str | None]:
        session_id = self.session_id if session_id is None else checks.check_id(session_id, "session_id")
        return session_id, self.user_id if user_id is None else checks.check_id(user_id, "user_id")

    def _turn(
        self, prompt: str | list[Any], session_id: str | None, user_id: str | None, message_id: str | None
    ) -> Turn:
        if not isinstance(prompt, (str, list)):
            raise InvalidInputError(f"a prompt is text or a list of parts, not {type(prompt).__name__}")
        session_id, user_id = self._whose(session_id, user_id)
        return Turn(
            database=self.db,
            model=self._model,
            tools=self._tools,
            session_id=session_id,
            user_id=user_id,
            agent=self.name,
            instructions=self.instructions,
            history_limit=self.history_limit,
            metadata=self.metadata,
            prompt=prompt,
            message_id=checks.check_optional_id(message_id, "message_id"),
        )


def _stream(turn: Turn) -> Generator[str, None, None]:
    caller = _check_may_block(turn)
    yield from iterate_blocking(lambda: turn.stream(caller))


def _check_may_block(turn: Turn) -> threading.Thread:
    """The calling thread, if a turn that blocks it can end."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    caller = threading.current_thread()
    locks.check(turn.key, caller, blocks=loop)
    return caller
