"""Curves: files that say something, and what is told where none can be made."""

import importlib.util
import json

import pytest


def test_a_picture_and_a_page(bench, hand, folder):
    done = bench("--url", "sqlite:///x.db", "--compare", "raw", "--messages", "1000", "--plot", "o.png")
    assert done.exit_code == 0, done.output
    picture = (folder / "o.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 50_000

    done = bench("--url", "json:///x$y$", "--url", "sqlite:///x.db", "--plot", "o.html", "--json", "--sessions", "4")
    page = (folder / "o.html").read_text()
    sweeps = json.loads(done.stdout)["sweeps"]
    assert [(sweep["workload"], len(sweep["comparisons"])) for sweep in sweeps] == [
        ("concurrency", 2),
        ("length", 2),
    ] * 2
    assert [comparison["callers"] for comparison in sweeps[0]["comparisons"]] == [1, 4]
    assert page.count("<svg") == 1
    assert page.count("<tr>") == 1 + 2 * (2 + 2)  # a head, and a row for each store and place on the curves
    assert "json:///x%24y%24" in page


@pytest.mark.parametrize(("path", "told"), [("o.gif", ".png or an .html"), ("no/o.png", "no folder")])
def test_a_file_that_cannot_be_made(path, told, bench):
    done = bench("--url", "sqlite:///x.db", "--plot", path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr


def test_a_missing_library_names_the_extra(bench, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: name != "matplotlib" and find(name, *rest))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name))
    done = bench("--url", "memory:", "--plot", "o.png")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "pip install 'agentstore[bench]'" in done.stderr
