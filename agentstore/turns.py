"""A turn of conversation: what is read, what is saved when, and who waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .calling import Closing, replied
from .concurrency import ended, uncancelled
from .errors import InvalidInputError
from .llm import as_message
from .locks import inside, locks
from .records import Message, ToolCall, new_id, own
from .tools import distinct
from .view import answer_of, ends_turn, is_answer, last_prompt, text_of, turn_at, view, with_prompts

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from .database import Database
    from .llm import Model
    from .records import Session
    from .tools import Tool

T = TypeVar("T")

MAX_ROUNDS = 10
"""How often a model may ask for tools in one turn; then it must answer."""

_PAGE = 500
_END = object()
_ANSWERS = uuid.UUID("3f3c8d4e-6f0b-5a53-9f0e-6d2b7a1c9e84")
_STOPPED = f"(Stopped after {MAX_ROUNDS} rounds of tools without an answer.)"


@dataclass(slots=True)
class Turn:
    """One turn, from the prompt to the stored answer. Used once.

    Attributes:
        answer: The answer as stored; None until the turn has ended.
    """

    database: Database
    model: Model
    tools: Mapping[str, Tool]
    session_id: str
    user_id: str | None
    agent: str
    instructions: str
    history_limit: int
    metadata: dict[str, Any] | None
    prompt: str | list[Any]
    message_id: str | None = None
    answer: Message | None = None
    _head: Session | None = None  # as it was before `_tail` was read
    _tail: list[Message] = field(default_factory=list)
    _history: list[Message] = field(default_factory=list)
    _messages: list[Message] = field(default_factory=list)  # of this turn, beginning with the user's
    _unsaved: bool = False  # whether the user's message is still to be saved
    _saving: asyncio.Task[list[Message]] | None = None  # it, while that goes on
    _wanted: tuple[ToolCall, ...] = ()  # what the model's last message asks for
    _rounds: int = 0  # of tools

    async def complete(self, caller: object) -> str:
        """Carry the turn out, and give the answer's text when all is durable.

        Args:
            caller: Who waits for the turn: a thread or a task.
        """
        async with locks.hold(self.key, caller):
            await self._begin()
            while self.answer is None:
                await self._run_tools()
                await self._finish(await self._ask(partial(self.model.complete, *self._question())))
            return text_of(self.answer)

    async def stream(self, caller: object = None) -> AsyncGenerator[str, None]:
        """Carry the turn out, giving the text as it comes, and end when all is durable.

        One that is closed or cancelled before its end stores the text so far, as interrupted. When the model fails
        nothing of its text is stored: asked again, the turn goes on.

        This is one generator with no other inside but the model's, because a loop that ends closes all its generators
        at the same time.

        Args:
            caller: As in `complete`; None is the running task.
        """
        async with locks.hold(self.key, caller or asyncio.current_task()) as place:
            await self._begin()
            if self.answer is not None and (text := text_of(self.answer)):
                yield text
            while self.answer is None:
                await self._run_tools()
                source = aiter(self.model.stream(*self._question()))
                pieces: list[str] = []
                async with Closing(source):
                    try:
                        item = await self._ask(partial(anext, source, _END))
                        while isinstance(item, str):
                            pieces.append(item)
                            await self._prompt_saved()
                            yield item
                            item = await self._ask(partial(anext, source, _END))
                    except (GeneratorExit, asyncio.CancelledError):
                        place.leave()
                        if any(pieces):
                            await self._finish("".join(pieces), interrupted=True)
                        raise
                    await self._finish("".join(pieces) if item is _END else item)
                if not pieces and (text := text_of(self._messages[-1])):
                    yield text

    @property
    def key(self) -> tuple[object, str]:
        """What turns that must not overlap have in common."""
        return self.database.identity, self.session_id

    # --- what is there ---

    async def _begin(self) -> None:
        """Read the history, and find out whether this turn was begun or even answered before."""
        stored = await self._read_tail()
        begun = self._repeated(stored) if self.message_id is None else await self._named(stored, self.message_id)
        if begun is None:
            self._unsaved = True
            begun = [Message("user", self.prompt, run_id=new_id())]
        self.answer = answer_of(begun)
        self._messages = begun
        ids = {message.id for message in begun}
        history = [message for message in stored if message.id not in ids]
        history = history[max(len(history) - self.history_limit, 0) :]
        self._history = history if len(stored) < self.history_limit else with_prompts(history)

    async def _read_tail(self) -> list[Message]:
        """The newest messages: as many as the model may see, and more if an unanswered turn began before them."""
        limit = max(self.history_limit, 1)
        self._head = head = await self.database.session(self.session_id, user_id=self.user_id)
        if head is None:
            return []
        while True:
            stored = self.database.tails.newest(head, limit)
            self._tail = stored = await self._read(limit=limit) if stored is None else stored
            if len(stored) < limit or ends_turn(stored[-1]) or last_prompt(stored) is not None:
                return stored
            if all(message.run_id != stored[-1].run_id for message in stored[: (limit + 1) // 2]):
                return stored  # its prompt was removed: looking further back would read the whole session
            limit *= 2

    def _repeated(self, stored: list[Message]) -> list[Message] | None:
        """The turn that the session ends with, if it waits for the answer to this very prompt."""
        index = last_prompt(stored) if stored else None
        if index is None or stored[index].content != self.prompt:
            return None
        turn = turn_at(stored, index)
        return None if ends_turn(turn[-1]) or answer_of(turn) else turn

    async def _named(self, stored: list[Message], message_id: str) -> list[Message]:
        """The turn whose user's message has this id: as stored, else begun now."""
        index = next((index for index, message in enumerate(stored) if message.id == message_id), None)
        if index is not None:
            _check_prompt(stored[index])
            return turn_at(stored, index)
        message = Message("user", self.prompt, id=message_id, run_id=new_id())
        (first,) = await self._save_prompt(message)
        if first.seq is None:  # it was deferred: whether the id is that of an earlier turn shows only when it is stored
            found = await self.database.find(self.session_id, [message_id], user_id=self.user_id)
            first = found.get(message_id, first)
        _check_prompt(first)
        return [first] if first.run_id == message.run_id else await self._read_turn(first)

    async def _read_turn(self, prompt: Message) -> list[Message]:
        """A turn from before the tail."""
        turn, after = [prompt], prompt.seq
        while answer_of(turn) is None:
            page = await self._read(after=after, limit=_PAGE)
            turn = turn_at([*turn, *page], 0)
            if len(page) < _PAGE or page[-1].seq is None:
                break
            after = page[-1].seq
        return turn

    async def _read(self, **bounds: int | None) -> list[Message]:
        return await self.database.messages(self.session_id, user_id=self.user_id, **bounds)

    # --- what is saved ---

    async def _save_prompt(self, message: Message) -> list[Message]:
        return await self.database.append(
            self.session_id, [message], user_id=self.user_id, agent=self.agent, metadata=self.metadata
        )

    async def _keep(self, *messages: Message) -> list[Message]:
        """Save what model and tools gave, also if we are cancelled meanwhile: it cannot be had again."""
        return await uncancelled(asyncio.ensure_future(self._append(messages)))

    async def _append(self, messages: tuple[Message, ...]) -> list[Message]:
        await self._prompt_saved()
        return await self.database.append(self.session_id, messages, user_id=self.user_id, agent=self.agent)

    async def _prompt_saved(self) -> None:
        """Wait until the user's message is durable; if we are cancelled its save goes on."""
        if self._saving is not None:
            (self._messages[0],) = await asyncio.shield(self._saving)
            self._saving = None

    # --- the model ---

    async def _ask(self, reply: Callable[[], Awaitable[T]]) -> T:
        """The model's reply; the user's message is saved meanwhile, and if that fails the reply is cancelled."""
        if not self._unsaved:
            return await self._reply(reply)
        self._unsaved = False
        self._saving = saving = asyncio.ensure_future(self._save_prompt(self._messages[0]))
        try:
            with anyio.CancelScope() as scope:
                saving.add_done_callback(lambda done: scope.cancel() if done.cancelled() or done.exception() else None)
                return await self._reply(reply)
        except Exception:
            await saving  # a failed save is the graver news
            raise
        except BaseException:
            saving.cancel()
            await ended(saving)
            if not saving.cancelled():
                saving.exception()  # who cancels has gone
            raise
        raise saving.exception() or asyncio.CancelledError

    async def _reply(self, reply: Callable[[], Awaitable[T]]) -> T:
        """What the model gives, which runs inside this turn."""
        token = inside.set(inside.get() | {self.key})
        try:
            return await replied(reply)
        finally:
            with contextlib.suppress(ValueError):  # dropped with its loop, it ends in whatever context collects it
                inside.reset(token)

    def _question(self) -> tuple[list[Message], list[Tool]]:
        """What the model is asked: what it sees, in copies that it may change, and the tools it may use."""
        tools = [] if self._rounds == MAX_ROUNDS else list(self.tools.values())
        return [own(message) for message in view(self._history, self._messages, self.instructions)], tools

    async def _finish(self, given: Any, *, interrupted: bool = False) -> None:
        """Store a message of the model; it is the turn's answer unless it asks for tools or was interrupted.

        An answer's id follows from the prompt's: should another process answer the same turn, one answer is kept.
        """
        try:
            message = as_message(given, interrupted=interrupted)
        except InvalidInputError:
            await self._prompt_saved()
            raise
        if message.tool_calls and self._rounds == MAX_ROUNDS:
            text = text_of(message)
            message = replace(message, content=f"{text}\n\n{_STOPPED}" if text else _STOPPED, tool_calls=())
        prompt = self._messages[0]
        answers = is_answer(message)
        (stored,) = await self._keep(
            replace(
                message,
                id=str(uuid.uuid5(_ANSWERS, prompt.id)) if answers else new_id(),
                seq=None,
                tool_calls=distinct(message.tool_calls),
                run_id=prompt.run_id,
            )
        )
        self._messages.append(stored)
        self._wanted = stored.tool_calls
        if answers:
            self.answer = stored
            if self._head is not None:
                self.database.tails.keep(self._head, self._tail, self._messages, max(self.history_limit, 1))

    # --- the tools ---

    async def _run_tools(self) -> None:
        """Run the tools that the model asks for, side by side; store their results together, in order of the calls."""
        calls, self._wanted = self._wanted, ()
        if not calls:
            return
        self._rounds += 1
        results: dict[ToolCall, Message] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(self._run_tool(call, results))
        finally:  # cancelled, we keep what there is
            if results:
                self._messages += await self._keep(*(results[call] for call in calls if call in results))

    async def _run_tool(self, call: ToolCall, results: dict[ToolCall, Message]) -> None:
        inside.set(inside.get() | {self.key})  # in this task, and in the thread of a sync tool
        tool = self.tools.get(call.name)
        if tool is None:
            text = f"Error: there is no tool {call.name!r}; there are: {', '.join(self.tools) or 'none'}"
        else:
            text = await tool.run(call.arguments)
        results[call] = Message("tool", text, tool_call_id=call.id, name=call.name, run_id=self._messages[0].run_id)


def _check_prompt(message: Message) -> None:
    if message.role != "user":
        raise InvalidInputError(f"message_id {message.id!r} is that of a message of the role {message.role!r}")
