"""``--contract-table FILE``: what every backend answered to every test of the contract, as a Markdown table."""

from collections import defaultdict
from pathlib import Path

PASSED, LACKING, FAILED = "yes", "lacks", "NO"
_HEADING = """# The contract, test by test

One suite, `agentstore.testing`, unchanged for every backend. `make contract` runs it and writes this page. *yes*: all
cases of the test passed. *lacks*: the driver declares that it cannot give this, for the reason below; the test runs
all the same, and may fail.

This one was written on PostgreSQL 15, MariaDB 10.11, Redis 7.0 and ClickHouse 18.16. What stands for MongoDB is
nx-27017, which speaks its protocol and is not MongoDB.
"""


def pytest_addoption(parser):
    parser.addoption("--contract-table", metavar="FILE", help="write the contract's table there")


def pytest_configure(config):
    target = config.getoption("--contract-table", default=None)
    if target and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(Path(target)))


class Table:
    def __init__(self, target):
        self._target = target
        self._cells = defaultdict(dict)  # by test, then backend
        self._backends = set()
        self._reasons = set()
        self._counts = defaultdict(int)

    def pytest_runtest_logreport(self, report):
        parts = report.nodeid.split("::")
        if len(parts) != 3 or not parts[1].startswith("Test") or "test_suite" in parts[0]:
            return
        lacking = getattr(report, "wasxfail", None)
        if report.when != "call" and not (report.failed or lacking):
            return
        backend, test = parts[1].removeprefix("Test"), parts[2].partition("[")[0]
        self._backends.add(backend)
        self._counts[backend] += 1
        cell = LACKING if lacking else PASSED if report.passed else FAILED
        cells = self._cells[test]
        cells[backend] = max(cells.get(backend, PASSED), cell, key=(PASSED, LACKING, FAILED).index)
        if lacking:
            self._reasons.add(f"{backend} {lacking.removeprefix('reason: ')}")

    def pytest_sessionfinish(self):
        backends = sorted(self._backends)
        lines = [
            _HEADING,
            "| test | " + " | ".join(backends) + " |",
            "|---|" + "---|" * len(backends),
            "| *cases in all* | " + " | ".join(str(self._counts[name]) for name in backends) + " |",
        ]
        for test, cells in sorted(self._cells.items()):
            words = test.removeprefix("test_").replace("_", " ")
            lines.append(f"| {words} | " + " | ".join(cells.get(name, "-") for name in backends) + " |")
        lines += ["", *(f"- {reason}" for reason in sorted(self._reasons))]
        self._target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
