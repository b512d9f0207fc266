"""A backend that is down for a while, under a steady load."""

import time
from collections.abc import Iterator
from pathlib import Path

from .effort import Effort
from .kit import Field, StuckError, one_round
from .network import BOUND, BRIEF, wired
from .report import Report

_RATE = 50.0
_RETURN = 10.0
"""Seconds after the backend's return within which everything must be stored."""
_ROOM = 32 * 2**20
"""Bytes that the process may grow by, however long the backend is down."""


def down(kind: str, durability: str, fallback: str | None, effort: Effort, folder: Path) -> Iterator[Report]:
    """Nobody listens for some seconds; 50 appends a second go on, each followed by a read.

    Without a fallback each caller gets `UnavailableError` in time. With one no append sees an error, no read gives a
    part of a history, memory stays flat, and soon after the return everything is stored.
    """
    sessions = [f"s{n}" for n in range(10)]
    job = {"sessions": sessions, "pops": [], "keys": [], "rate": _RATE, "reads": True, "fallback": fallback}
    with wired(kind, durability, folder, pool=BRIEF, **job) as (proxy, field):
        writer = field.start()
        for _ in range(effort.rounds):
            writer.until_each(count=2)
            before = max(writer.memory)
            proxy.refuse()
            proxy.cut()
            time.sleep(effort.seconds)
            writer.until_felt()
            proxy.heal()
            _stored(field)
            writer.until_each()
            report = one_round()
            if max(writer.memory) > before + _ROOM:
                report.blame("other", f"memory grew from {before:,} to {max(writer.memory):,} bytes")
            yield report
        field.stop()
        report = field.audit(allowed=("UnavailableError",) if fallback is None else ())
        if report.slowest > BOUND:
            report.blame("other", f"a call took {report.slowest:.1f} s")
        yield report


def _stored(field: Field) -> None:
    """Wait until all that is acknowledged by now is in the backend itself."""
    acknowledged = {known for call in field.calls() if call.outcome == "ack" for known in call.ids}
    deadline = time.monotonic() + _RETURN
    while missing := acknowledged - field.stored_ids():
        if time.monotonic() > deadline:
            raise StuckError(f"{_RETURN:.0f} s after the backend's return {len(missing)} messages are not stored")
        time.sleep(0.1)
