"""A model without a network: rules that read the conversation, and say so. For demos and tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from agentstore.records import Message
from agentstore.view import text_of

from . import Model

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

    from agentstore.tools import Tool

_FLAGS = re.IGNORECASE
_NAME_TOLD = (
    re.compile(r"\b(?:my name is|my name's|call me)\s+([^\s.,;:!?][^.,;:!?\n]*?)(?=\s+and\b|[.,;:!?\n]|$)", _FLAGS),
    re.compile(r"\b(?:[Ii] am|[Ii]'m)\s+([A-Z][\w'-]*(?:\s+[A-Z][\w'-]*)*)(?=\s+and\b|[.,;:!?\n]|$)"),
)
_FAVOURITE_TOLD = re.compile(r"\bmy favou?rite\s+([\w' -]+?)\s+is\s+([^.;!?\n]+)", _FLAGS)
_REMEMBER = re.compile(r"\bremember\s+that\s+([^.;!?\n]+)", _FLAGS)

_ASKS_NAME = re.compile(r"\bwhat(?:'s| is| was)\s+my\s+name\b|\bwho am i\b|\b(?:know|remember)\s+my\s+name\b", _FLAGS)
_ASKS_FAVOURITE = re.compile(r"\bwhat(?:'s| is| was)\s+my\s+favou?rite\s+([\w' -]+?)\s*(?:[?.!,\n]|$)", _FLAGS)
_ASKS_MESSAGE = re.compile(
    r"\bwhat\s+(?:did\s+i\s+(?:say|ask|write|tell you)\s+(first|last)"
    r"|was\s+my\s+(first|last)\s+(?:message|question))\b",
    _FLAGS,
)
_ASKS_COUNT = re.compile(r"\bhow many messages\b", _FLAGS)
_ASKS_REMEMBERED = re.compile(r"\bwhat (?:did|have|do|should) (?:i|you)\b.*\bremember", _FLAGS)
_GREETING = re.compile(r"^\W*(?:hello|hi|hey|good (?:morning|afternoon|evening))\b", _FLAGS)


class OfflineModel(Model):
    """Answers from what was said in the conversation, by a handful of rules; it knows nothing else.

    It remembers a name ("my name is ...", "call me ...", "I am ..."), favourites ("my favourite colour is ...") and
    what it was asked to remember ("remember that ..."), and tells first, last and number of the messages it is shown.
    """

    def __repr__(self) -> str:
        return "OfflineModel()"

    async def complete(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Message:  # noqa: ARG002
        """The answer, at once."""
        return Message("assistant", _answer(messages))

    async def stream(self, messages: Sequence[Message], tools: Sequence[Tool]) -> AsyncGenerator[str | Message, None]:
        """The answer, word by word."""
        answer = await self.complete(messages, tools)
        for word in re.findall(r"\s*\S+", text_of(answer)):
            yield word
        yield answer


def _answer(messages: Sequence[Message]) -> str:
    said = [text_of(message).replace("\u2019", "'") for message in messages if message.role == "user"]
    now, before = (said[-1], said[:-1]) if said else ("", [])
    return _recalled(now, before, messages) or _noted(now) or _plain(now, before)


def _recalled(now: str, before: Sequence[str], messages: Sequence[Message]) -> str | None:
    """The answer to a question about the conversation; None if it asks for nothing of the kind."""
    if _ASKS_NAME.search(now):
        name = _last([*before, now], _name_in)
        return f"Your name is {name}." if name else "You have not told me your name."
    if asked := _ASKS_FAVOURITE.search(now):
        thing = asked[1].lower()
        told = _last(before, lambda text: _favourites_in(text).get(thing))
        return f"Your favourite {thing} is {told}." if told else f"You have not told me your favourite {thing}."
    if asked := _ASKS_MESSAGE.search(now):
        which = (asked[1] or asked[2]).lower()
        what = before[0 if which == "first" else -1] if before else None
        return f'What you said {which} was: "{what}"' if what else "This is the first thing you say to me."
    if _ASKS_COUNT.search(now):
        return f"I see {sum(m.role != 'system' for m in messages)} messages, this one included."
    if _ASKS_REMEMBERED.search(now):
        facts = [fact for text in before for fact in _facts_in(text)]
        return "You asked me to remember: " + "; ".join(facts) + "." if facts else "You asked me to remember nothing."
    return None


def _noted(now: str) -> str | None:
    """What to say to something told; None if nothing was."""
    notes = [f"your name is {name}"] if (name := _name_in(now)) else []
    notes += [f"your favourite {thing} is {what}" for thing, what in _favourites_in(now).items()]
    notes += _facts_in(now)
    return f"I will remember: {'; '.join(notes)}." if notes else None


def _plain(now: str, before: Sequence[str]) -> str:
    name = _last(before, _name_in)
    hello = f"Hello{', ' + name if name else ''}! " if _GREETING.search(now) else ""
    return f'{hello}I am the offline model: I only know what was said in this conversation. You said: "{now}"'


def _last(texts: Sequence[str], find: Callable[[str], str | None]) -> str | None:
    return next((found for text in reversed(texts) if (found := find(text))), None)


def _name_in(text: str) -> str | None:
    found = [match for pattern in _NAME_TOLD for match in pattern.finditer(text)]
    return max(found, key=lambda match: match.start())[1].strip() if found else None


def _favourites_in(text: str) -> dict[str, str]:
    return {match[1].lower(): match[2].strip() for match in _FAVOURITE_TOLD.finditer(text)}


def _facts_in(text: str) -> list[str]:
    return [match[1].strip() for match in _REMEMBER.finditer(text)]
