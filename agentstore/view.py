"""What a model sees of a conversation, and which stored turn a repeated prompt means. Pure functions of messages.

A *turn* is a user's message and what follows it under the same ``run_id`` up to the next user's message there.
Messages without a ``run_id`` count as one run.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .records import Message

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def view(history: Sequence[Message], turn: Sequence[Message] = (), instructions: str = "") -> list[Message]:
    """What to show a model.

    Runs come in the order in which they first appear, each in one piece, so that two workers on one session do not
    garble each other's turns; messages without a ``run_id`` stay where they are. A tool call without a result goes,
    and so does a result without a call; results directly follow the message that asked for them. The text of an
    interrupted stream goes when its turn has gone on.

    Args:
        history: Earlier messages, oldest first. Shown from the first user's message on.
        turn: The turn to answer: shown last, and whole but for interrupted texts.
        instructions: Become a system message in front, unless empty.
    """
    shown = _by_run(_paired(_settled(history)))
    first = next((index for index, message in enumerate(shown) if message.role == "user"), len(shown))
    system = [Message("system", instructions)] if instructions else []
    return [*system, *shown[first:], *_paired([message for message in turn if not is_interrupted(message)])]


def turn_at(messages: Sequence[Message], index: int) -> list[Message]:
    """The turn of the user's message at `index`, as far as `messages` holds it."""
    prompt = messages[index]
    turn = [prompt]
    for message in messages[index + 1 :]:
        if message.run_id == prompt.run_id:
            if message.role == "user":
                break
            turn.append(message)
    return turn


def last_prompt(messages: Sequence[Message]) -> int | None:
    """Where the user's message of the run that `messages` end with is; None if they do not hold it."""
    run_id = messages[-1].run_id
    indexes = range(len(messages) - 1, -1, -1)
    return next((i for i in indexes if messages[i].run_id == run_id and messages[i].role == "user"), None)


def is_answer(message: Message) -> bool:
    """Whether this message answers its turn; the text of a stream that was interrupted does not."""
    return message.role == "assistant" and not message.tool_calls and not is_interrupted(message)


def is_interrupted(message: Message) -> bool:
    """Whether this is what a stream had given when it was closed early."""
    return message.role == "assistant" and message.metadata.get("interrupted") is True


def ends_turn(message: Message) -> bool:
    """Whether a session that ends with this waits for no answer."""
    return is_answer(message) or is_interrupted(message)


def answer_of(turn: Sequence[Message]) -> Message | None:
    """The final answer of a turn; None while it waits for one."""
    return next((message for message in reversed(turn) if is_answer(message)), None)


def with_prompts(messages: Iterable[Message]) -> list[Message]:
    """`messages` without those of runs whose user's message is not above them: it was cut off."""
    prompted: set[str | None] = {None}
    kept = []
    for message in messages:
        if message.role == "user":
            prompted.add(message.run_id)
        if message.run_id in prompted:
            kept.append(message)
    return kept


def text_of(message: Message) -> str:
    """The text of a message: of a list of parts, the text of its text parts."""
    if isinstance(message.content, str):
        return message.content
    return "".join(part["text"] for part in message.content if isinstance(part, dict) and _has_text(part))


def _has_text(part: dict[str, object]) -> bool:
    return isinstance(part.get("text"), str)


def _settled(messages: Sequence[Message]) -> list[Message]:
    """`messages` without interrupted texts behind which the assistant has said more in their turn."""
    went_on: set[str | None] = set()
    kept = []
    for message in reversed(messages):
        if message.role == "user":
            went_on.discard(message.run_id)
        elif message.role == "assistant":
            if message.run_id in went_on and is_interrupted(message):
                continue
            went_on.add(message.run_id)
        kept.append(message)
    return kept[::-1]


def _paired(messages: Sequence[Message]) -> list[Message]:
    """`messages` with each tool result behind its call, and without unanswered calls, stray results, empty answers."""
    answers = _answers(messages)
    kept: list[Message] = []
    for index, message in enumerate(messages):
        if message.role == "tool":
            continue
        if not message.tool_calls:
            if message.content or message.role != "assistant":
                kept.append(message)
            continue
        results = answers.get(index, {})
        calls = tuple(call for place, call in enumerate(message.tool_calls) if place in results)
        if not message.content and not calls:
            continue
        kept.append(message if calls == message.tool_calls else replace(message, tool_calls=calls))
        kept += (results[place] for place in sorted(results))
    return kept


def _answers(messages: Sequence[Message]) -> dict[int, dict[int, Message]]:
    """By index of the asking message and place of the call in it: the result.

    A result belongs to the nearest call above it in its run that has its id and no result yet: models use an id again.
    """
    open_calls: dict[tuple[str | None, str], list[tuple[int, int]]] = {}
    answers: dict[int, dict[int, Message]] = {}
    for index, message in enumerate(messages):
        if message.role == "tool":
            waiting = open_calls.get((message.run_id, message.tool_call_id or ""))
            if waiting:
                asked, place = waiting.pop()
                answers.setdefault(asked, {})[place] = message
            continue
        if not message.tool_calls:
            continue
        # the first of several calls with one id in one message is answered first
        for place, call in reversed(list(enumerate(message.tool_calls))):
            open_calls.setdefault((message.run_id, call.id), []).append((index, place))
    return answers


def _by_run(messages: Iterable[Message]) -> list[Message]:
    groups: list[list[Message]] = []
    runs: dict[str, list[Message]] = {}
    for message in messages:
        if message.run_id is None:
            groups.append([message])
        elif message.run_id in runs:
            runs[message.run_id].append(message)
        else:
            runs[message.run_id] = group = [message]
            groups.append(group)
    return [message for group in groups for message in group]
