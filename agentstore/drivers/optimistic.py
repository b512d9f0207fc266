"""Writing without locks: load, plan, and write on the condition that nobody came between; else again.

For backends whose one atomic step is a conditional write. A session's ``updated_at`` rises with every change (see
`rules.touched`), so together with the last seq, which outlives the session, it is the version to compare.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentstore import rules
from agentstore.errors import AgentstoreError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message

V = TypeVar("V")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds
_DOUBLINGS = 6


@dataclass(slots=True)
class Loaded(Generic[V]):
    """What a driver found for a batch of appends.

    Attributes:
        stored: For each session id of the batch, what is there; see `rules.plan_appends`.
        versions: For each, what must still hold when it is written.
        now: The backend's time.
    """

    stored: Mapping[str, rules.Stored]
    versions: Mapping[str, V]
    now: datetime


class Attempts:
    """What stands between two attempts: a growing random pause, and an end.

    Args:
        what: What is being written, for the message.
        patience: Seconds after which to give up.
    """

    def __init__(self, what: str, patience: float) -> None:
        self._what = what
        self._patience = patience
        self._deadline = time.monotonic() + patience
        self._failed = 0

    async def again(self) -> None:
        """Wait before the next attempt.

        Raises:
            UnavailableError: Others were faster for too long.
        """
        if time.monotonic() >= self._deadline:
            raise UnavailableError(
                f"{self._what}: other writers were faster {self._failed + 1} times, for {self._patience} s",
                hint="Spread the load over more sessions or keys, or raise PoolOptions.statement_timeout",
            )
        longest = min(_FIRST_PAUSE * 2 ** min(self._failed, _DOUBLINGS), _LONGEST_PAUSE)
        self._failed += 1
        await asyncio.sleep(longest * random.random())  # noqa: S311  to draw writers apart


async def append(
    batch: Sequence[Append],
    load: Callable[[Sequence[Append]], Awaitable[Loaded[V]]],
    write: Callable[[Mapping[str, rules.Written], Mapping[str, V]], Awaitable[Mapping[str, AgentstoreError | None]]],
    patience: float,
) -> list[Outcome[list[Message]]]:
    """`ConversationStore.append` for a backend with conditional writes.

    Args:
        batch: The operations.
        load: Finds what they touch.
        write: Writes each session whole if its version holds. Gives those sessions that it did not write: with an
            error, or None where another writer came first.
        patience: Seconds after which to give up a session that others keep changing.
    """
    outcomes: dict[int, Outcome[list[Message]]] = {}
    left = dict(enumerate(batch))
    attempts = Attempts(f"appending to {len({op.session_id for op in batch})} sessions", patience)
    while True:
        loaded = await load(list(left.values()))
        planned, written = rules.plan_appends(list(left.values()), loaded.stored, loaded.now)
        missed = await write(written, loaded.versions) if written else {}
        for (index, op), outcome in zip(left.items(), planned, strict=True):
            error = missed.get(op.session_id)
            if op.session_id not in missed:
                outcomes[index] = outcome
            elif error is not None:
                outcomes[index] = error
        left = {index: op for index, op in left.items() if index not in outcomes}
        if not left:
            return [outcomes[index] for index in range(len(batch))]
        await attempts.again()
