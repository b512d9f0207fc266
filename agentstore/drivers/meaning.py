"""What a driver's map of errors is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from agentstore.errors import AgentstoreError


class Meaning(NamedTuple):
    """An error of ours, with what it says and what to do."""

    error: type[AgentstoreError]
    says: str
    hint: str | None = None
