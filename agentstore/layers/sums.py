"""Sums of sealed numbers: where the backend cannot add, it compares versions."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from agentstore import rules
from agentstore.checks import check_value
from agentstore.errors import AgentstoreError, ConflictError, InvalidInputError, UnavailableError
from agentstore.protocol import KEEP, GetItems, Increment, SetItems

from .sealing import sealed_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.protocol import Backend, Outcome, StateOp
    from agentstore.records import StateItem

    from .sealing import RecordCipher

_ATTEMPTS = 100
"""Of racing writers one always succeeds, so many would have to come in between, each time."""

_LONGEST_WAIT = 0.05  # seconds


def stages(batch: Sequence[StateOp]) -> list[list[int]]:
    """The places of a batch's operations, in steps to be taken one after the other.

    The steps are by turns all but increments, and increments, whatever is there of either. What concerns one key keeps
    its order, as does what carries a mark.
    """
    steps: list[list[int]] = []
    last: dict[tuple[str, str | None], int] = {}
    for place, op in enumerate(batch):
        names: list[tuple[str, str | None]] = list(rules.named_keys([op]))
        if isinstance(op, SetItems) and op.mark is not None:
            names.append((op.namespace, None))
        step = max((last.get(name, 0) for name in names), default=0)
        step += step % 2 != isinstance(op, Increment)
        last.update(dict.fromkeys(names, step))
        while len(steps) <= step:
            steps.append([])
        steps[step].append(place)
    return steps


async def add(store: Backend, cipher: RecordCipher, batch: Sequence[Increment]) -> list[Outcome[int]]:
    """Carry out increments: read, add, and set if nobody else has, again and again."""
    left: dict[tuple[str, str], list[int]] = {}
    for place, op in enumerate(batch):
        left.setdefault((op.namespace, op.key), []).append(place)
    done: dict[int, Outcome[int]] = {}
    for attempt in range(_ATTEMPTS):
        if attempt:
            await asyncio.sleep(random.random() * min(_LONGEST_WAIT, 0.001 * 2 ** min(attempt, 10)))  # noqa: S311  to draw apart
        names = list(left)
        found = await store.get_items([GetItems(namespace, (key,)) for namespace, key in names])
        sums = {name: _sums(cipher, name, here, batch, left[name]) for name, here in zip(names, found, strict=True)}
        writes = {name: op for name, (op, _) in sums.items() if op is not None}
        written = await store.write_items(list(writes.values())) if writes else []
        outcomes = dict(zip(writes, written, strict=True))
        for name, (_, answers) in sums.items():
            outcome = outcomes.get(name, 0)
            if isinstance(outcome, ConflictError):
                continue
            del left[name]
            failed = isinstance(outcome, AgentstoreError)
            done |= {place: outcome if failed and isinstance(answer, int) else answer for place, answer in answers}
        if not left:
            break
    for name, places in left.items():
        error = UnavailableError(
            f"key {name[1]!r} was changed by others each of {_ATTEMPTS} times that it was to be incremented",
            hint="Nothing was added: try again",
        )
        done |= dict.fromkeys(places, error)
    return [done[place] for place in range(len(batch))]


def _sums(
    cipher: RecordCipher,
    name: tuple[str, str],
    found: Outcome[dict[str, StateItem]],
    batch: Sequence[Increment],
    places: Sequence[int],
) -> tuple[SetItems | None, list[tuple[int, Outcome[int]]]]:
    """What to set a key to, and what the increments of it then answer."""
    namespace, key = name
    try:
        if isinstance(found, AgentstoreError):
            raise found
        item = cipher.open_item(namespace, found[key]) if key in found else None
        value = rules.summand(key, item)
    except AgentstoreError as error:
        return None, [(place, error) for place in places]
    answers: list[tuple[int, Outcome[int]]] = []
    total = value
    for place in places:
        try:
            check_value(total + batch[place].by)
        except InvalidInputError as error:
            answers.append((place, error))
        else:
            total += batch[place].by
            answers.append((place, total))
    if all(isinstance(answer, AgentstoreError) for _, answer in answers):
        return None, answers
    sealed = cipher.value(namespace, key, total)
    op = SetItems(namespace, {key: sealed}, KEEP, item.version if item else 0, sealed_size(8))
    return op, answers
