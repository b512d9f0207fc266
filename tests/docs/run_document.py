"""Run a document: all its snippets, in order, in the current folder. ``python run_document.py README.md``.

A fence that begins with

- ``python`` is executed, all of a document in one namespace; the comment behind a ``print(...)`` is what it must print;
- ``python file=name`` (or ``toml``) becomes a file, to which later fences of that name add;
- ``console`` holds commands behind ``$ `` and, where shown, the very lines that each prints;
- ``text`` is a drawing. Any other fence is an error, as is a command of which nobody knows how to execute it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(?P<language>\S+)(?: file=(?P<file>\S+))?$")
_PRINTS = re.compile(r"^\s*print\(.*\)  # (?P<text>.*)$", re.MULTILINE)
_RUNS = {"agentstore", "echo", "python"}


class DocumentError(Exception):
    """A snippet does not do what the document says."""


@dataclass
class Snippet:
    language: str
    file: str | None
    line: int  # of its first line of text, from 1
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"


def snippets(document: str) -> list[Snippet]:
    """The fenced blocks of a Markdown text."""
    found: list[Snippet] = []
    inside = False
    for number, line in enumerate(document.splitlines(), start=1):
        if inside and line != "```":
            found[-1].lines.append(line)
        elif inside:
            inside = False
        elif line.startswith("```"):
            fence = _FENCE.match(line)
            if fence is None:
                raise DocumentError(f"line {number}: a fence without a language: {line}")
            found.append(Snippet(fence["language"], fence["file"], number + 1))
            inside = True
    if inside:
        raise DocumentError("the last fence is not closed")
    return found


class Document:
    """One document at work."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._namespace: dict[str, object] = {"__name__": "__main__"}

    def run(self) -> None:
        """Execute all snippets."""
        for snippet in snippets(self._path.read_text("utf-8")):
            try:
                self._execute(snippet)
            except DocumentError as error:
                raise DocumentError(f"{self._path.name}, line {snippet.line}: {error}") from error

    def _execute(self, snippet: Snippet) -> None:
        if snippet.file is not None:
            with Path(snippet.file).open("a", encoding="utf-8") as file:
                file.write(("\n\n" if file.tell() else "") + snippet.text)
        elif snippet.language == "python":
            self._python(snippet)
        elif snippet.language == "console":
            self._console(snippet)
        elif snippet.language != "text":
            raise DocumentError(f"nobody executes a fence of {snippet.language!r}")

    def _python(self, snippet: Snippet) -> None:
        printed = io.StringIO()
        code = compile("\n" * (snippet.line - 1) + snippet.text, str(self._path), "exec")  # lines as in the document
        with contextlib.redirect_stdout(printed):
            exec(code, self._namespace)
        lines = iter(printed.getvalue().splitlines())
        for expected in _PRINTS.findall(snippet.text):
            if expected not in lines:  # takes lines up to it: the order counts
                raise DocumentError(f"{expected!r} is not printed, but {printed.getvalue()!r}")

    def _console(self, snippet: Snippet) -> None:
        commands: list[tuple[str, list[str]]] = []
        for line in snippet.lines:
            if line.startswith("$ "):
                commands.append((line[2:], []))
            elif commands:
                commands[-1][1].append(line)
            else:
                raise DocumentError(f"output before any command: {line}")
        for command, shown in commands:
            printed = _command(command)
            if shown and printed != shown:
                raise DocumentError(f"{command!r} printed {printed}, not {shown}")


def _command(command: str) -> list[str]:
    """Execute a command; the lines that it printed."""
    words = shlex.split(command)
    if words[0] == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
        if not set(words[1:]) <= targets:
            raise DocumentError(f"{command!r} names no target of the Makefile")
    elif words[:2] == ["pip", "install"]:
        _install(words[2:])
    elif words[0] in _RUNS:
        done = subprocess.run(command, shell=True, capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            raise DocumentError(f"{command!r} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.splitlines()
    else:
        raise DocumentError(f"nobody executes {command!r}")
    return []


def _install(words: list[str]) -> None:
    """What pip would have changed, without an index: the snippets run where agentstore and all extras are installed."""
    name, _, extras = words[-1].rstrip("]").partition("[")
    if words == ["-e", "."] and Path("pyproject.toml").exists():
        _install_folder()
        return
    if name not in {".", "agentstore"}:
        raise DocumentError(f"nobody installs {name!r}")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    if not set(filter(None, extras.split(","))) <= set(known):
        raise DocumentError(f"there is no extra {extras!r}")


def _install_folder() -> None:
    """Make the document's own package known to what runs from now on: its modules and its entry points."""
    project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
    metadata = Path(f"{project['name'].replace('-', '_')}-{project['version']}.dist-info")
    metadata.mkdir()
    heading = {"Metadata-Version": "2.1", "Name": project["name"], "Version": project["version"]}
    (metadata / "METADATA").write_text("".join(f"{key}: {value}\n" for key, value in heading.items()))
    groups = project["entry-points"].items()
    entries = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups]
    (metadata / "entry_points.txt").write_text("\n".join(entries))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, str(Path.cwd()))


if __name__ == "__main__":
    Document(Path(sys.argv[1])).run()
