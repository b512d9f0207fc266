"""What a driver's map of errors is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentstore.errors import UnavailableError

if TYPE_CHECKING:
    from agentstore.errors import AgentstoreError


class Meaning(NamedTuple):
    """An error of ours, with what it says and what to do; `passing` and `answered` as `UnavailableError` has them."""

    error: type[AgentstoreError]
    says: str
    hint: str | None = None
    passing: bool = True
    answered: bool = False

    def told(self, place: str, reason: object, *, unsent: bool = False) -> AgentstoreError:
        """The error itself.

        Args:
            place: Which server or store, for the message; without password.
            reason: What the driver said.
            unsent: As `UnavailableError` has it.
        """
        message = f"{place}: {self.says} ({reason})"
        if self.error is not UnavailableError:
            return self.error(message, hint=self.hint)
        return UnavailableError(message, hint=self.hint, passing=self.passing, answered=self.answered, unsent=unsent)
