"""The page of figures, from stored results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import goals
import pytest
import report
from stored import Stored, clean

HERE = Path(__file__).parent
RUN_DOCUMENT = HERE.parent / "docs" / "run_document.py"


@pytest.fixture
def results(tmp_path):
    """A copy of the sample, to be changed."""
    return Path(shutil.copytree(HERE / "sample", tmp_path / "results"))


@pytest.fixture
def page(results, tmp_path):
    """``page()``: the lines of the page."""
    docs = tmp_path / "docs"
    docs.mkdir()
    return lambda: report.write_page(results, docs).read_text().splitlines()


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def row(lines: list[str], begin: str) -> list[str]:
    (found,) = [line for line in lines if line.startswith(f"| {begin} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_machine_versions_and_settings_are_told(page):
    lines = page()
    assert "agentstore 0.1.0, 2026-11-24, on 2 processors (A processor), Linux 6.1, CPython 3.11.7." in lines
    assert [line for line in lines if line.startswith("| SQLite | durability commit, ") and "synchronous FULL" in line]
    assert not [line for line in lines if line.startswith("**")]


def test_goals_reached_and_missed(page, monkeypatch, tmp_path):
    notes = tmp_path / "notes.toml"
    notes.write_text('[memory]\nall = "Two hops."\nsqlite = "One hop."\n[append]\njson = "Never shown."\n')
    monkeypatch.setattr(goals, "_NOTES", notes)
    lines = page()
    assert row(lines, "64 sessions at once, to a group commit by hand")[1:] == ["at least 0.80", "1.37", "0.80"]
    assert row(lines, goals._MEMORY)[2] == "**3.42**"
    assert f"- SQLite, {goals._MEMORY}: 3.42, at most 3.00 was asked. One hop." in lines
    assert not [line for line in lines if "Never shown" in line]
    peers = row(lines, "64 sessions at once, to the best peer as it comes")
    assert peers[2] == "5.50"  # a peer that was tuned does not count
    assert peers[1] == "at least 2.00 (MySQL/MariaDB); 4.00 (SQLite, PostgreSQL, Redis); 15.00 (JSON files)"


def test_peers_with_what_they_failed_and_lost(page):
    lines = page()
    assert row(lines, "PraisonAI AsyncSQLiteConversationStore")[1:] == [
        *("1,000 (x 2.0)", "1,000 (x 5.5)", "1,000 (x 1.5)", "1,000 (x 3.0)", "4,321", "7", "3")
    ]
    assert row(lines, "agentstore")[5:] == ["18,000", "0", "0"]
    text = "\n".join(lines)
    assert "5.5 times what the best of them does as it comes" in text
    assert "1.2 times where one was helped" in text
    assert "7 times: OperationalError: database is locked (URL)" in text
    assert "1 sessions out of order" in text
    assert "SQLAlchemySession (openai-agents 0.24.0): no figures. open: CompileError: VARCHAR requires a length" in text
    for private in ("secret", "somebody", "example.com", "5432"):
        assert private not in text


def test_growth_and_its_pictures(page, tmp_path):
    lines = page()
    assert row(lines, "newest 50, p50 ms") == ["newest 50, p50 ms", "100", "1,000", "2,000"]
    assert row(lines, "SQLite, read by `iter_messages`")[1] == "120"
    for name in ("length", "memory"):
        assert f"performance/{name}.png" in "\n".join(lines)
        picture = tmp_path / "docs" / "performance" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 100_000
    assert "performance/sessions.png" not in "\n".join(lines)


def test_every_picture_of_the_page_is_there(page, tmp_path):
    pictures = tmp_path / "docs" / "performance"
    pictures.mkdir()
    (pictures / "sqlite.png").touch()
    shown = {line.partition("](")[2][:-1] for line in page() if line.startswith("![")}
    assert shown == {f"performance/{path.name}" for path in pictures.iterdir()}


def test_the_page_runs_as_the_documents_do(page, tmp_path):
    page()
    document = tmp_path / "docs" / "performance.md"
    done = subprocess.run([sys.executable, RUN_DOCUMENT, document], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_step_that_failed_is_told_and_not_passed_over(page, results):
    change(results / "bench" / "sqlite-memory.json", failed="Traceback\nOSError: /some/where is full")
    lines = page()
    assert "**Not measured:** bench sqlite-memory: OSError: PATH is full" in lines
    assert row(lines, goals._MEMORY)[2:] == ["", ""]


def test_results_of_two_machines_are_told(page, results):
    path = results / "bench" / "json-append.json"
    change(path, machine=json.loads(path.read_text())["machine"] | {"python": "CPython 3.13.0"})
    assert "**Not all of one run:** python was CPython 3.13.0, CPython 3.11.7." in page()


def test_nothing_measured(page, results):
    shutil.rmtree(results)
    assert "Nothing has been measured yet." in page()


def test_a_peer_nobody_could_audit(page, results):
    path = results / "peers" / "sqlite-praisonai-sqlite.json"
    peer = json.loads(path.read_text())
    peer["audit"]["theirs"]["lost"] = None
    change(path, **peer)
    assert row(page(), "PraisonAI AsyncSQLiteConversationStore")[-1] == "unknown"


def test_every_note_is_of_a_goal():
    backends = {goal.key: set(goal.bounds) | {"all"} for goal in goals.GOALS}
    for key, found in goals.notes().items():
        assert set(found) <= backends[key]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("see https://host/x?y for more", "see URL for more"),
        ("Connect call failed ('127.0.0.1', 54321)", "Connect call failed (SERVER)"),
        ("no /tmp/x-1/y.db here", "no PATH here"),
        ("a|b\n  `c`", "a/b 'c'"),
        ("MariaDB 10.11.19-MariaDB-0+deb12u1 and/or 1/2", "MariaDB 10.11.19-MariaDB-0+deb12u1 and/or 1/2"),
    ],
)
def test_what_is_of_one_machine_is_left_out(text, cleaned):
    assert clean(text) == cleaned


def test_the_sample_is_whole():
    stored = Stored(HERE / "sample")
    assert stored.failed == {}
    assert stored.comparison("sqlite", "append", -1) is not None
