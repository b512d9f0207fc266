"""Emptying rows that nobody reads any more, so that the next merge drops what they held."""
# ruff: noqa: S608  statements are made of constants and of what `literals` has written

from __future__ import annotations

from typing import TYPE_CHECKING

from .literals import literal
from .schema import HEAD, ID, KEY, MESSAGE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .heads import Known
    from .link import Link

_TOGETHER = 50  # sessions in a statement
_KEPT = "seq, version, deleted, created_at, user_id, agent, updated_at, expires_at, floor_seq"  # of a head


async def clean(link: Link, sessions: Sequence[Known]) -> None:
    """Replace what the log still holds of messages up to each session's `top`, as it was read.

    No reader sees them any more, so this need not happen at once with anything, and may be done again.
    """
    for at in range(0, len(sessions), _TOGETHER):
        condition = " OR ".join(
            f"(kind IN ({MESSAGE}, {ID}) AND session_id = {literal(known.session_id)} AND seq <= {known.top})"
            for known in sessions[at : at + _TOGETHER]
        )
        await link.select(
            f"INSERT INTO agentstore_log ({KEY}, seq, version, deleted)"
            f" SELECT {KEY}, any(seq), max(version) + 1, 1"
            f" FROM agentstore_log WHERE {condition} GROUP BY {KEY} HAVING argMax(deleted, version) = 0"
        )


async def clean_heads(link: Link, known: Known, slot: int) -> None:
    """Empty the texts of all heads but that of a slot, which counts.

    They keep their versions, so that a newer one which another process is just writing counts.
    """
    await link.select(
        f"INSERT INTO agentstore_log ({KEY}, {_KEPT}) SELECT {KEY}, {_KEPT} FROM agentstore_log"
        f" WHERE kind = {HEAD} AND session_id = {literal(known.session_id)} AND num != {slot}"
        f" ORDER BY num, version DESC LIMIT 1 BY num"
    )
