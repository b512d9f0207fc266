"""Each scenario once, briefly (``FAULTS=long``: as long as `make faults`), and nothing is amiss afterwards."""

import os

import pytest

from .report import total
from .scenarios import SCENARIOS

LONG = os.environ.get("FAULTS") == "long"


@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_nothing_acknowledged_is_lost(scenario):
    report = total(scenario.rounds(scenario.long if LONG else scenario.short))
    assert not report.problems, str(report)
    assert report.acknowledged > 10
    assert report.rounds
