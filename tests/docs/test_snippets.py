"""Every snippet of the documents, and every example, is executed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = {
    "quickstart.py": (["The session holds 2 messages."], ["Hello", "The session holds 4 messages."]),
    "session_resume.py": (["Your name is Alice."], ["Your name is Alice."]),
}
SERVICES = {"fastapi_service.py"}  # run by tests/service


def run(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run Python in an empty folder as somebody who has just installed agentstore; warnings are errors."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTSTORE_", "OPENAI_"))}
    environment |= {
        "AGENTSTORE_MODEL": "offline",
        "AGENTSTORE_HOME": str(folder / "home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.timeout(900)  # one of them runs the whole contract
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_document_runs(document, tmp_path):
    result = run(tmp_path, HERE / "run_document.py", document)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


BROKEN = {
    "a name that is not there": "```python\nfrom agentstore import Agnet\n```",
    "another output": "```python\nprint(1 + 1)  # 3\n```",
    "outputs in another order": "```python\nprint(1)  # 1\nprint(2)  # 2\nprint(1)  # 2\n```",
    "an exception": "```python\nimport agentstore\n\nagentstore.db('nosql://h/x')\n```",
    "a later snippet": "```python\nx = 1\n```\n\n```python\nassert x == 2\n```",
    "an option that is not there": "```console\n$ agentstore sessions --colour\n```",
    "another answer": "```console\n$ echo Hi | agentstore chat\nBye\n```",
    "no such target": "```console\n$ make coffee\n```",
    "no such extra": "```console\n$ pip install 'agentstore[teapot]'\n```",
    "an unknown command": "```console\n$ rm -rf x\n```",
    "an unknown language": "```ruby\nputs 1\n```",
    "no language": "```\nx\n```",
    "an open fence": "```python\nx = 1\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_document_fails(text, tmp_path):
    document = tmp_path / "broken.md"
    document.write_text(f"# A title\n\n{text}\n")
    result = run(tmp_path, HERE / "run_document.py", document)
    assert result.returncode == 1
    assert "broken.md" in result.stderr or "line" in result.stderr or "fence" in result.stderr


def test_every_example_is_known():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES) | SERVICES


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs_and_runs_again(name, tmp_path):
    for expected in EXAMPLES[name]:
        result = run(tmp_path, ROOT / "examples" / name)
        assert (result.returncode, result.stderr) == (0, "")
        for text in expected:
            assert text in result.stdout
    assert (tmp_path / "conversations.db").exists()
