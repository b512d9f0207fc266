"""`agentstore bench`: every workload in small, what is left behind, and what it refuses."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from statistics import median

import pytest

from agentstore import Database, Message, db
from agentstore.bench.workloads import WORKLOADS
from agentstore.cli.app import _Workload

STORES = ["memory:", "sqlite:///x.db", "json:///x"]
URL = "sqlite:///x.db"


def check(result: dict) -> None:
    """The figures of a result hold together."""
    assert result["comparisons"]
    for comparison in result["comparisons"]:
        first, *others = comparison["figures"]
        assert (first["ratio"], first["ratios"]) == (None, [])
        for figure in comparison["figures"]:
            assert 0 < figure["p50"] <= figure["p95"] <= figure["p99"]
            assert len(figure["rates"]) == 2
            assert figure["operations"] >= 2
            assert figure["rate"] == median(figure["rates"]) > 0
        for other in others:
            assert other["ratio"] == median(other["ratios"])
            if comparison["judge"] == "rate":
                assert other["ratios"] == [one / two for one, two in zip(first["rates"], other["rates"], strict=True)]


# --- what is measured ---


@pytest.mark.parametrize("url", STORES)
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload_on_a_store(workload, url, found, stored):
    result = found("--url", url, "--workload", workload)
    assert (result["workload"], result["settings"]["durability"]) == (workload, "commit")
    check(result)
    assert stored(url) == ([], [])


@pytest.mark.parametrize("workload", [name for name, work in WORKLOADS.items() if work.by_hand])
def test_every_workload_by_hand(workload, hand, found, stored):
    result = found("--url", URL, "--workload", workload, "--compare", "raw")
    check(result)
    for comparison in result["comparisons"]:
        assert len(comparison["figures"]) > 1
    assert not hand.open
    assert stored(URL) == ([], [])


def test_turns_are_done_as_asked_on_each_side(hand, found):
    found("--url", URL, "--compare", "raw")
    # a warm-up of one turn and two repeats of four, in three sessions
    assert (hand.asked["append"], hand.asked["insert"]) == (27, 27)
    assert hand.largest == 3
    assert hand.asked["group"] == 9  # all that wait go together


@pytest.mark.parametrize("durability", ["memory", "journal"])
def test_a_deferred_turn_beside_the_least_that_it_can_cost(durability, found, stored, folder):
    result = found("--url", URL, "--durability", durability, "--compare", "raw")
    check(result)
    assert [comparison["judge"] for comparison in result["comparisons"]] == ["time", "rate"]
    assert stored(URL) == ([], [])
    assert [path for path in (folder / "home").rglob("*") if path.is_file()] == []


def test_it_stops_at_its_time(found):
    assert found("--url", URL, "--workload", "sequential", "--turns", "1000000", "--seconds", "0.05")


def test_the_command_knows_every_workload():
    assert [work.value for work in _Workload] == list(WORKLOADS)


def test_a_table_for_people(hand, bench):
    told = bench("--url", URL, "--workload", "append", "--workload", "agent", "--compare", "raw").stdout
    for words in ("agentstore", "CPython", "durability commit", "pool at most 10", "p95 ms", "promises less"):
        assert words in told
    assert told.count("its model alone") == 1
    assert "what the first one's p50 has beyond" in told
    assert max(len(line) for line in told.splitlines() if line.startswith("│")) <= 100


def test_without_a_url_a_temporary_file_is_measured(bench, monkeypatch):
    monkeypatch.setenv("AGENTSTORE_DATABASE_URL", "sqlite:///mine.db")
    done = bench()
    assert "a temporary SQLite file" in done.stderr
    place = done.stderr.split(" in ")[-1].strip()
    assert place in done.stdout
    assert not Path(place).exists()
    assert not Path("mine.db").exists()


# --- losses ---


def test_a_store_that_loses_a_turn_fails_the_run(bench, monkeypatch, stored):
    append, calls = Database.append, []

    async def forgetful(self, session_id, messages, **fields):
        calls.append(session_id)
        return messages if len(calls) == 20 else await append(self, session_id, messages, **fields)

    monkeypatch.setattr(Database, "append", forgetful)
    done = bench("--url", URL)
    assert done.exit_code == 1
    assert "has 6 of 8 acknowledged messages" in done.stderr
    assert stored(URL) == ([], [])


def test_so_does_a_bare_driver(bench, hand):
    turns = iter(range(1000))
    hand._loses = lambda: next(turns) == 20
    done = bench("--url", URL, "--workload", "sequential", "--turns", "30", "--compare", "raw")
    assert done.exit_code == 1
    assert "by hand, one commit per turn" in done.stderr
    assert "acknowledged messages" in done.stderr
    assert not hand.open


# --- what it refuses ---


@pytest.mark.parametrize("what", ["a session", "state"])
def test_a_store_in_use_is_refused(what, bench, stored):
    with db(URL) as database:
        if what == "state":
            database.sync.state.scope("mine").set("key", 1)
        else:
            database.sync.append("mine", Message("user", "hello"))
    before = stored(URL)
    done = bench("--url", URL)
    assert (done.exit_code, done.stdout.count("turns")) == (2, 0)
    assert "--force" in done.stderr
    assert stored(URL) == before


def test_force_leaves_what_is_not_its_own(bench, stored):
    with db(URL) as database:
        database.sync.append("mine", Message("user", "hello"))
        database.sync.append("agentstore-bench-mixed-0", Message("user", "of a run that was killed"))
        database.sync.state.scope("mine").set("key", 1)
    assert bench("--url", URL, "--workload", "mixed", "--force").exit_code == 0
    sessions, namespaces = stored(URL)
    assert (sorted(sessions), namespaces) == (["agentstore-bench-mixed-0", "mine"], ["mine"])


def test_a_wrong_url_is_told_before_anything_is_measured(bench):
    done = bench("--url", URL, "--url", "nosuch://x")
    assert done.exit_code == 2
    assert "nosuch" in done.stderr
    assert not Path("x.db").exists()


@pytest.mark.parametrize("url", ["memory:", "sqlite://"])
def test_a_store_without_a_bare_driver_has_nothing_to_compare_with(url, bench):
    done = bench("--url", url, "--compare", "raw")
    assert done.exit_code == 2
    assert "no raw counterpart" in done.stderr


# --- an interrupt ---


def test_an_interrupted_run_cleans_up(stored):
    command = [sys.executable, "-m", "agentstore", "bench", "--url", URL, "--turns", "1000000", "--seconds", "100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ) as process:
        try:
            until(lambda: messages("x.db") > 1000)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, (out, err)
    assert b"Traceback" not in err
    assert stored(URL) == ([], [])


def messages(path: str) -> int:
    if not Path(path).exists():
        return 0
    with closing(sqlite3.connect(path)) as connection:
        try:
            return connection.execute("SELECT sum(message_count) FROM agentstore_sessions").fetchone()[0] or 0
        except sqlite3.OperationalError:  # not made yet
            return 0


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_json_says_where_and_when(bench):
    report = json.loads(bench("--url", "memory:", "--json").stdout)
    assert set(report["machine"]) == {"agentstore", "python", "system", "processor", "cpus", "date"}
    assert report["sweeps"] == []
