"""What an audit found, and the table that tells it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

FAULTS = ("lost", "doubled", "out of order", "resurrected", "other")
COLUMNS = ("scenario", "rounds", "acknowledged", "refused", *FAULTS, "seconds")


@dataclass
class Report:
    """Figures of one round, or of several that were added.

    Attributes:
        acknowledged: Calls that returned.
        refused: Calls that raised an error that the scenario allows.
        excused: Acknowledged messages that are missing, where a pop of that moment never told what it took.
        slowest: Seconds that the longest call took, answered or refused.
        problems: What is wrong, by one of `FAULTS`, with the reason and the place.
    """

    acknowledged: int = 0
    refused: int = 0
    excused: int = 0
    slowest: float = 0.0
    problems: list[tuple[str, str]] = field(default_factory=list)
    rounds: int = 0
    seconds: float = 0.0

    def blame(self, fault: str, text: str) -> None:
        """Add a problem."""
        assert fault in FAULTS
        self.problems.append((fault, text))

    def __str__(self) -> str:
        shown = "\n".join(f"  {fault}: {text}" for fault, text in self.problems[:20])
        return f"{len(self.problems)} problems; the first:\n{shown}" if self.problems else "no problem"

    def row(self, title: str) -> list[str]:
        """A line of the table."""
        counts = Counter(fault for fault, _ in self.problems)
        figures = (self.rounds, self.acknowledged, self.refused, *(counts[fault] for fault in FAULTS))
        return [title, *(f"{figure:,}" for figure in figures), f"{self.seconds:.0f}"]


def total(reports: Iterable[Report]) -> Report:
    """All of them together; a problem that stays from round to round is told once."""
    whole = Report()
    for report in reports:
        whole.acknowledged += report.acknowledged
        whole.refused += report.refused
        whole.excused += report.excused
        whole.slowest = max(whole.slowest, report.slowest)
        whole.problems += [problem for problem in report.problems if problem not in whole.problems]
        whole.rounds += report.rounds
        whole.seconds += report.seconds
    return whole
