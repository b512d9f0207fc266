"""The commands of benchmarks/: what they take, what they refuse, and growth at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import environments
import full
import growth
import pytest
from rich.console import Console

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def listed(capsys, monkeypatch):
    """``listed("--part", "peers")``: the steps that would be measured."""
    for name in ("POSTGRESQL", "MYSQL", "REDIS", "MONGODB", "CLICKHOUSE"):
        monkeypatch.delenv(f"AGENTSTORE_TEST_{name}_URL", raising=False)

    def run(*arguments: str) -> list[str]:
        assert full.main(["--list", *arguments]) == 0
        return capsys.readouterr().out.splitlines()

    return run


def test_without_servers_the_embedded_stores_are_measured(listed):
    steps = listed()
    assert {step.split()[1] for step in steps} == {"sqlite", "json"}
    assert {step.split()[0] for step in steps} == {"bench", "peers", "growth"}


def test_parts_backends_and_names_choose(listed):
    assert listed("--part", "peers", "--backend", "redis", "--name", "openai_agents") == [
        "peers redis openai_agents-redis"
    ]
    assert listed("--part", "growth", "--backend", "sqlite", "--backend", "json", "--name", "queue") == [
        *("growth sqlite queue", "growth json queue")
    ]
    assert listed("--part", "page") == []


@pytest.mark.parametrize("wrong", [("--part", "x"), ("--backend", "oracle"), ("--repeats", "0"), ("--deep", "x")])
def test_what_is_refused(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        full.main(["--list", *wrong])
    assert wrong[0] in capsys.readouterr().err


def test_sizes_reach_the_steps(monkeypatch):
    commands = []
    monkeypatch.setattr(full, "_json", lambda command: commands.append(command) or {})
    options, scale = full._arguments(
        ["--deep", "7", "--sessions", "9", "--part", "growth", "--backend", "json", "--name", "length"]
    )
    for step in full.select(options, scale):
        step.run()
    assert commands[0][2:5] == ["length", "--most", "7"]
    assert scale.sessions == 9


def test_results_are_stored_and_failures_too(tmp_path):
    def fail():
        raise full.StepError("Traceback\nOSError: no")

    steps = [full.Step("bench", "sqlite", "good", lambda: {"x": 1}), full.Step("bench", "sqlite", "bad", fail)]
    assert full.run(steps, tmp_path, Console(quiet=True)) == 1
    good, bad = (json.loads((tmp_path / "bench" / f"sqlite-{name}.json").read_text()) for name in ("good", "bad"))
    assert (good["x"], bad["failed"]) == (1, "Traceback\nOSError: no")
    assert good["machine"]["cpus"] > 0


def test_a_process_that_fails_is_a_step_that_fails():
    with pytest.raises(full.StepError, match="out of order"):
        full._json([sys.executable, "-c", "import sys; sys.exit('out of order')"])


def test_environments_are_known_by_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        environments.main(["nobody"])
    assert "no such peer: nobody" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "most", "places", "keys"),
    [
        ("length", 1500, [100, 1000, 1500], {"append", "newest"}),
        ("sessions", 30, [30], {"append", "newest", "listing"}),
        ("concurrency", 5, [1, 4], {"rate", "append"}),
        ("reading", 100, [0, *range(2, 101, 2)], {"resident"}),
        ("queue", 40, [0, *range(2, 41, 2), 40], {"resident"}),
    ],
)
def test_growth(what, most, places, keys, tmp_path):
    command = [sys.executable, "-W", "error", SCRIPTS / "growth.py", what, "--url", f"sqlite:///{tmp_path}/g.db"]
    done = subprocess.run(
        [*command, "--most", str(most), "--times", "3"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert sorted(point["at"] for point in found["points"]) == places
    assert all(keys <= point.keys() for point in found["points"])


@pytest.mark.parametrize("wrong", [["width"], ["length", "--most", "0"], ["length"]])
def test_growth_refuses(wrong, capsys):
    with pytest.raises(SystemExit, match="2"):
        growth.main([*wrong, "--url", "memory:"])
    assert "usage" in capsys.readouterr().err


def test_places_grow_by_ten():
    assert growth.places(100, 20_000) == [100, 1000, 10_000, 20_000]
    assert growth.places(1000, 30) == [30]
