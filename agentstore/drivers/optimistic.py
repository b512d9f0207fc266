"""Writing without locks: load, plan, and write on the condition that nobody came between; else again.

For backends whose one atomic step is a conditional write. A session's ``updated_at`` rises with every change (see
`rules.touched`), so together with the last seq, which outlives the session, it is the version to compare. Only a
rewrite moves neither: a write that carries along title and metadata as they were loaded must notice that otherwise.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from agentstore import rules
from agentstore.errors import AgentstoreError, CorruptRecordError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from datetime import datetime

    from agentstore.protocol import Append, Outcome
    from agentstore.records import Message

V = TypeVar("V")
In = TypeVar("In")
Out = TypeVar("Out")

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

    stored: dict[str, rules.Stored]
    versions: dict[str, V]
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

    async def again(self, overtaken: BaseException | None = None) -> None:
        """Wait before the next attempt.

        Args:
            overtaken: How the driver told that another was faster; the cause if that was the last attempt.

        Raises:
            UnavailableError: Others were faster for too long.
        """
        if time.monotonic() >= self._deadline:
            raise UnavailableError(
                f"{self._what}: other writers were faster {self._failed + 1} times, for {self._patience} s",
                hint="Spread the load over more sessions or keys, or raise PoolOptions.statement_timeout",
                passing=False,
            ) from overtaken
        longest = min(_FIRST_PAUSE * 2 ** min(self._failed, _DOUBLINGS), _LONGEST_PAUSE)
        self._failed += 1
        await asyncio.sleep(longest * random.random())  # noqa: S311  to draw writers apart


@dataclass(frozen=True, slots=True)
class Failures:
    """What a pass may raise that has stored nothing.

    Attributes:
        again: What another writer caused: the next pass may succeed.
        single: What one operation may have run into: the others are tried without it.
        raised: What else the driver raises.
        translated: Makes an error of ours of what is none.
    """

    again: tuple[type[BaseException], ...] = ()
    single: tuple[type[BaseException], ...] = (CorruptRecordError,)
    raised: tuple[type[BaseException], ...] = ()
    translated: Callable[[BaseException], AgentstoreError] | None = None

    def ours(self, error: BaseException) -> AgentstoreError:
        """What to tell of an error.

        Raises:
            Exception: It is none of ours, and nothing translates it.
        """
        if isinstance(error, AgentstoreError):
            return error
        if self.translated is None:
            raise error
        return self.translated(error)


async def settled(
    batch: Sequence[In],
    attempt: Callable[[Sequence[In]], Awaitable[Sequence[Outcome[Out] | None]]],
    attempts: Attempts,
    failures: Failures,
) -> list[Outcome[Out]]:
    """Attempt a batch until each of its operations has an outcome, which it keeps whatever the others run into.

    Args:
        batch: The operations.
        attempt: One pass over some of them, in their order: an outcome for each, None where another writer came first.
        attempts: What stands between two passes.
        failures: What a pass may raise.

    Raises:
        Exception: What a pass raised, or `attempts`, while no operation had an outcome; afterwards it is the outcome
            of those that are left.
    """
    outcomes: dict[int, Outcome[Out]] = {}
    raised: tuple[type[BaseException], ...] = (AgentstoreError, *failures.raised)
    try:
        await _settle(batch, attempt, attempts, failures, outcomes)
    except raised as error:
        if not outcomes:
            raise
        ours = failures.ours(error)
        return [outcomes.get(index, ours) for index in range(len(batch))]
    return [outcomes[index] for index in range(len(batch))]


async def _settle(
    batch: Sequence[In],
    attempt: Callable[[Sequence[In]], Awaitable[Sequence[Outcome[Out] | None]]],
    attempts: Attempts,
    failures: Failures,
    outcomes: dict[int, Outcome[Out]],
) -> None:
    parts = [list(range(len(batch)))]
    while parts:
        part = parts.pop(0)  # to its end before the next: no operation overtakes another
        overtaken: BaseException | None = None
        try:
            done = await attempt([batch[index] for index in part])
        except failures.again as error:
            overtaken = error
        except failures.single as error:
            if len(part) == 1:
                outcomes[part[0]] = failures.ours(error)
            else:
                half = len(part) // 2
                parts[:0] = part[:half], part[half:]
            continue
        else:
            outcomes.update((index, one) for index, one in zip(part, done, strict=True) if one is not None)
        left = [index for index in part if index not in outcomes]
        if left:
            parts.insert(0, left)
            await attempts.again(overtaken)


async def append(
    batch: Sequence[Append],
    load: Callable[[Sequence[Append]], Awaitable[Loaded[V]]],
    write: Callable[[Mapping[str, rules.Written], Mapping[str, V]], Awaitable[Mapping[str, AgentstoreError | None]]],
    patience: float,
    failures: Failures = Failures(),
) -> list[Outcome[list[Message]]]:
    """`ConversationStore.append` for a backend with conditional writes.

    Args:
        batch: The operations.
        load: Finds what they touch.
        write: Writes each session whole if its version holds. Gives those sessions that it did not write: with an
            error, or None where another writer came first.
        patience: Seconds after which to give up a session that others keep changing.
        failures: What `load` and `write` may raise, having written nothing; see `settled`.
    """

    async def attempt(part: Sequence[Append]) -> list[Outcome[list[Message]] | None]:
        loaded = await load(part)
        planned, written = rules.plan_appends(part, loaded.stored, loaded.now)
        missed = await write(written, loaded.versions) if written else {}
        return [missed.get(op.session_id, outcome) for op, outcome in zip(part, planned, strict=True)]

    attempts = Attempts(f"appending to {len({op.session_id for op in batch})} sessions", patience)
    return await settled(batch, attempt, attempts, failures)
