"""What every test gets."""

import os
import re
from contextlib import ExitStack

import pytest

import servers

pytest.register_assert_rewrite("sql_marks")

ONCE = re.compile(
    r"tests/drivers/(postgresql|mysql|redis|mongodb|clickhouse)/|tests/(bench|benchmarks|faults|service)/|test_guesses"
    r"|tests/contract/test_(deferred|clickhouse|mongodb|pgbouncer)|test_replicas_(servers|contract)"
    r"|Cluster|Sentinel|Encrypted"
)
"""What asks servers or layers more than Python: one Python is enough for it, where several are tested (Makefile)."""


def pytest_configure(config):
    config.addinivalue_line("markers", "once: run on one Python only")
    if not hasattr(config, "workerinput"):  # xdist's workers share the servers of their controller
        run = servers.Run()
        os.environ[servers.RUN] = str(run.root)
        config.add_cleanup(run.close)


def pytest_collection_modifyitems(items):
    for item in items:
        if ONCE.search(item.nodeid):
            item.add_marker(pytest.mark.once)


@pytest.fixture
def anyio_backend() -> str:
    """The library runs on asyncio."""
    return "asyncio"


@pytest.fixture
def fresh():
    """``fresh("postgresql")``: the URL of an empty store on a server that is shared, gone after the test."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(servers.fresh(kind))


@pytest.fixture
def private_server():
    """``private_server("redis")``: a server of the test's own, to be killed and started again; gone after the test."""
    with ExitStack() as stack:
        yield lambda kind, *arguments, **options: stack.enter_context(
            servers.private_server(kind, *arguments, **options)
        )
