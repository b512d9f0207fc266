"""A folder of JSON files, a backend on it, and other processes."""

import contextlib
import subprocess
import sys
import textwrap

import pytest
from json_kit import backend


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
async def store(folder):
    found = backend(folder)
    yield found
    await found.aclose()


@pytest.fixture
def run():
    """Starts an interpreter that runs some code; none outlives the test."""
    with contextlib.ExitStack() as ended:

        def start(code, *arguments, flags=()):
            process = subprocess.Popen(
                [sys.executable, "-W", "error", *flags, "-c", textwrap.dedent(code), *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            ended.enter_context(process)
            ended.callback(process.kill)
            return process

        yield start
