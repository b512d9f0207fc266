"""How much of a scenario is played."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much of a scenario is played.

    Attributes:
        rounds: How often something is broken.
        seconds: How long, where a scenario lasts for a time.
    """

    rounds: int = 1
    seconds: float = 0.0
