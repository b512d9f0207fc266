"""A whole store from one key to another, from plain to encrypted, or back, while it is in use.

The programs that use the store must write in the new way already, and read in both: with the new key first and the old
ones behind it (nobody can read both plain and encrypted records, so those two ways need the programs to stand still).
Then whatever they write needs no work here, and a run that was cut short, or that missed something, is simply repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .forms import Forms
from .report import Report
from .work import Looking, Rewriting

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentstore.protocol import Backend

__all__ = ["ROUNDS", "Report", "rekey"]

ROUNDS = 3
"""How often all is rewritten and looked at again, while something turns up that was missed."""


async def rekey(
    backend: Backend,
    *,
    old_keys: Sequence[str | bytes] = (),
    new_key: str | bytes | None,
    progress: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Write every session and state value of an open backend anew, then look at all of them again.

    Args:
        backend: The driver, with nothing around it.
        old_keys: What may be encrypted with; none where it is plain.
        new_key: What it is to be encrypted with; None makes it plain.
        progress: Called often, with what has been done so far.

    Returns:
        The report; all is well if nothing is `Report.left`.

    Raises:
        ConfigurationError: A key is none, or there is no key at all.
    """
    report = Report()
    forms = Forms(old_keys, new_key)
    for _ in range(ROUNDS):
        for verifying in (False, True):
            report.verifying, report.sessions, report.values, report.left = verifying, 0, 0, 0
            report.errors.clear()
            await backend.purge_sessions()  # what has expired is in no listing, and must not stay either
            await backend.purge_state()
            work = Looking if verifying else Rewriting
            await work(backend, forms, report, progress).run()
        if not report.left:
            break
    return report
