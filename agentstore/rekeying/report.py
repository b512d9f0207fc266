"""What a run has come to."""

from __future__ import annotations

from dataclasses import dataclass, field

_TOLD = 10


@dataclass(slots=True)
class Report:
    """What a run has done.

    Attributes:
        rewritten: Messages, sessions (title and metadata) and state values that were written anew.
        sessions: Sessions that were looked at last, by the way of verification.
        values: State values likewise.
        left: Records that are not as they should be after all.
        errors: Why, for the first few.
        verifying: Whether all was rewritten, and is looked at again.
    """

    rewritten: int = 0
    sessions: int = 0
    values: int = 0
    left: int = 0
    errors: list[str] = field(default_factory=list)
    verifying: bool = False

    def failed(self, reason: object) -> None:
        """Count a record that is not as it should be."""
        self.left += 1
        if len(self.errors) < _TOLD:
            self.errors.append(str(reason))
