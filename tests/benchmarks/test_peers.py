"""agentstore beside a peer: what is counted, and what is told of one that loses, refuses or ends."""

import shutil
import subprocess
import sys
from pathlib import Path

import environments
import pytest
import side_by_side
from environments import UnavailableError
from rivals import RIVALS, Rival
from runner import load
from side_by_side import Effort, OursError, measure

ROOT = Path(__file__).parents[2]
EFFORT = Effort(repeats=2, seconds=5.0, sessions=3, turns=5, length=60)  # more than are read
TURNS = 3 * (1 + 2 * 5) + (6 + 2 * 30)  # a warm-up and two samples of three sessions, then of one
LONG = 3 * 2 + (1 + 2)  # sessions of more than two turns


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """``beside("loses")``: the figures of a peer of `peers/fake.py`."""
    folder = tmp_path / "peers"
    shutil.copytree(Path(__file__).parent / "peers", folder)
    shutil.copy(ROOT / "benchmarks" / "peers" / "agentstore.py", folder)
    monkeypatch.setattr(side_by_side, "PEERS", folder)
    monkeypatch.setattr(side_by_side, "environment", lambda peer: Path(sys.executable))
    monkeypatch.setattr(side_by_side, "versions", lambda peer: f"{peer} 1.0")

    def run(store: str, ours: str = f"sqlite:///{tmp_path}/ours.db"):
        rival = Rival("sqlite", "fake", store, "Fake")
        return measure(rival, ours, f"sqlite:///{tmp_path}/theirs.db", EFFORT)

    return run


def test_both_do_the_same_work(beside):
    found = beside("honest")
    assert [case["name"] for case in found["cases"]] == [
        *("one session", "many sessions", "newest 50, one at a time", "newest 50, 32 at once")
    ]
    for case in found["cases"]:
        assert len(case["ratios"]) == 2
        assert min(case["ratios"]) <= case["ratio"] <= max(case["ratios"])
        assert 0 < case["theirs"]["p50"] <= case["theirs"]["p99"]
    for audit in found["audit"].values():
        assert audit == {"lost": 0, "disordered": 0, "errors": {}, "acknowledged": TURNS, "failed": 0, "refused": {}}
    assert found["settings"] == {
        "ours": {"durability": "commit", "pool": "10 connections"},
        "theirs": {"durability": "none"},
    }


def test_what_is_lost_and_what_is_refused_are_counted(beside):
    audits = beside("bad")["audit"]
    theirs = audits["theirs"]
    assert (theirs["lost"], theirs["acknowledged"]) == (LONG, TURNS - LONG)  # one lost in each, one refused
    assert theirs["refused"].pop("OSError: the store is locked") == LONG
    assert theirs["refused"].keys() == {"not the newest messages, oldest first"}
    assert (audits["ours"]["lost"], audits["ours"]["failed"]) == (0, 0)


@pytest.mark.parametrize(
    ("store", "reason"),
    [
        ("dies", "its process ended at append: Fatal: no more"),
        ("unwilling", "open: ValueError: VARCHAR requires a length"),
    ],
)
def test_a_peer_without_figures_says_why(store, reason, beside):
    found = beside(store)
    assert (found["unavailable"], found["name"], found["version"]) == (reason, "Fake", "fake 1.0")


def test_a_failure_of_ours_is_none_of_the_peer_s(beside):
    with pytest.raises(OursError, match="unknown option"):
        beside("honest", "sqlite:///x.db?colour=red")


def test_a_peer_that_cannot_be_installed_says_why(beside, monkeypatch):
    def fail(peer):
        raise UnavailableError(f"no matching distribution for {peer}")

    monkeypatch.setattr(side_by_side, "environment", fail)
    assert beside("honest")["unavailable"] == "no matching distribution for fake"


def test_an_environment_is_made_once_and_again_when_its_versions_change(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")

    def run(command):
        made.append(command)
        if "venv" in command:
            Path(command[-1]).mkdir(parents=True)

    monkeypatch.setattr(environments, "_run", run)
    wanted = tmp_path / "some.txt"
    wanted.write_text("some-package==1.0\nother==2\n")
    first = environments.environment("some")
    assert environments.environment("some") == first
    assert len(made) == 2
    assert environments.versions("some") == "some-package 1.0"
    wanted.write_text("some-package==1.1\n")
    assert environments.environment("some") != first
    assert len(made) == 4


def test_what_pip_says_is_the_reason():
    with pytest.raises(UnavailableError, match="no such option"):
        environments._run([sys.executable, "-c", "import sys; sys.exit('ERROR: no such option')"])


def test_every_rival_has_a_script_pins_and_a_name_of_its_own():
    for rival in RIVALS:
        script = ROOT / "benchmarks" / "peers" / f"{rival.peer}.py"
        assert f'"{rival.store}": ' in script.read_text()
        for line in (ROOT / "benchmarks" / "requirements" / f"{rival.peer}.txt").read_text().splitlines():
            assert "==" in line
    names = [(rival.backend, rival.name) for rival in RIVALS]
    assert len(set(names)) == len(names)


def test_the_runner_needs_nothing_but_the_standard_library():
    command = [sys.executable, "-I", "-S", "-c", "import runpy, sys; runpy.run_path(sys.argv[1])"]
    subprocess.run([*command, str(ROOT / "benchmarks" / "runner.py")], check=True)


def test_a_script_hides_no_package():
    fake = load(str(Path(__file__).parent / "peers" / "fake.py"))
    assert fake.__name__ == "the_peer"
