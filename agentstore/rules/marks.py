"""Marks: how far queues have come, by which a write that comes again is known.

A queue hands a session's writes down in order, so one position per queue says it all: whatever stands up to there has
been stored. The marks belong to the session (or namespace), not to the queue, since that is what every backend writes
in one atomic step; and they outlive it, or a replay would bring back what was deleted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeAlias

from agentstore.errors import CorruptRecordError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentstore.protocol import Mark

Marks: TypeAlias = "Mapping[str, int]"
"""The last position of each queue, by its id; the queue that wrote last stands last."""

KEPT = 16
"""Queues whose marks a session keeps: a process that died is replayed long before so many others have written there."""


def passed(marks: Marks, mark: Mark | None) -> bool:
    """Whether a write of this mark has been stored before."""
    return mark is not None and marks.get(mark.queue, 0) >= mark.position


def advanced(marks: Marks, mark: Mark | None) -> Marks:
    """The marks after a write of this mark; the very same if it has none."""
    if mark is None:
        return marks
    others = [(queue, position) for queue, position in marks.items() if queue != mark.queue]
    return dict([*others[-(KEPT - 1) :], (mark.queue, mark.position)])


def marks_to_text(marks: Marks) -> str | None:
    """As clean text, for a column; None if there are none."""
    return json.dumps(marks, separators=(",", ":")) if marks else None


def marks_from_text(text: Any) -> Marks:
    """What `marks_to_text` gave.

    Raises:
        CorruptRecordError: It is something else.
    """
    if text is None:
        return {}
    try:
        marks = json.loads(text)
    except (TypeError, ValueError) as error:
        raise CorruptRecordError(f"stored marks cannot be read: {error}") from error
    if not isinstance(marks, dict) or not all(type(position) is int for position in marks.values()):
        raise CorruptRecordError("what is stored in place of marks is no object of ints")
    return marks
