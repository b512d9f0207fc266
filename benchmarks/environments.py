"""An environment for each peer: ``python benchmarks/environments.py [PEER ...]``, all by default.

Each has a file of pinned versions in `requirements/`. What is made once is found again until that file changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements"
CACHE = HERE / ".cache"
PEERS = sorted(path.stem for path in REQUIREMENTS.glob("*.txt"))


class UnavailableError(Exception):
    """A peer cannot be had here, and why."""


def environment(peer: str) -> Path:
    """The Python of a peer's environment, which is made if it is not there yet.

    Raises:
        UnavailableError: Its packages cannot be installed.
    """
    wanted = REQUIREMENTS / f"{peer}.txt"
    digest = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:8]
    folder = CACHE / f"{peer}-{digest}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = folder / "complete"
    if not complete.exists():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)])
        complete.touch()
    return python


def versions(peer: str) -> str:
    """The first package of a peer's, with its version, as the page tells it."""
    return REQUIREMENTS.joinpath(f"{peer}.txt").read_text().split()[0].replace("==", " ")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UnavailableError(lines[-1] if lines else f"pip ended with {done.returncode}")


def main(arguments: list[str] | None = None) -> int:
    """Make those that are named."""
    parser = argparse.ArgumentParser(description="Make the peers' environments.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(PEERS)}; none: all")
    named = parser.parse_args(arguments).peers
    if unknown := set(named) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    failed = 0
    for peer in named or PEERS:
        print(f"{peer} ...", flush=True)
        try:
            environment(peer)
        except UnavailableError as error:
            failed += 1
            print(f"{peer} cannot be installed: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
