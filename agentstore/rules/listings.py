"""Listings: pages of sessions, cursors, and where a prefix ends."""

from __future__ import annotations

import base64
import json
import operator
import sys
from typing import TYPE_CHECKING

from agentstore import codec
from agentstore.checks import check_id
from agentstore.errors import InvalidInputError
from agentstore.records import Page, Session

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_SURROGATE, _PAST_SURROGATES = 0xD800, 0xE000


def listing_key(session: Session) -> tuple[int, str]:
    """What listings are ordered by."""
    return codec.to_micros(session.updated_at), session.id


def page(found: Sequence[Session], limit: int) -> Page[Session]:
    """A page of `limit` sessions, of which one more was looked for to know whether there are more."""
    items = tuple(found[:limit])
    return Page(items, make_cursor(*listing_key(items[-1])) if len(found) > limit and items else None)


def make_cursor(micros: int, session_id: str) -> str:
    """A place in a listing as one opaque word, fit for a URL."""
    return base64.urlsafe_b64encode(json.dumps([micros, session_id]).encode()).decode().rstrip("=")


def read_cursor(cursor: str) -> tuple[int, str]:
    """The (updated_at in microseconds, session id) of `make_cursor`.

    Raises:
        InvalidInputError: No listing gave this cursor.
    """
    try:
        micros, session_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        check_id(session_id, "the cursor's session id")
        codec.from_micros(operator.index(micros))  # a time that there is: backends hold no longer ints
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidInputError(f"cursor {cursor!r} is not one that sessions() gave") from error
    return micros, session_id


def prefix_end(prefix: str) -> str | None:
    """The least str, by codepoints, above all that start with `prefix`; None if there is none."""
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code == _FIRST_SURROGATE:  # surrogates are no characters: UTF-8 goes on behind them
            code = _PAST_SURROGATES
        if code <= sys.maxunicode:
            return prefix[:index] + chr(code)
    return None
