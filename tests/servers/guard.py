"""Runs one server, and ends it when the pipe on stdin closes: whoever holds the other end has gone, however it went.

``python guard.py SIGNAL ACCOUNT FOLDER COMMAND...``: the server's pid goes to stdout, its output to stderr. When the
pipe closes the server gets SIGNAL, is killed if that does not help, and FOLDER is removed; so is the folder that
holds it with the last one. When the server ends by itself, the guard ends too and leaves FOLDER alone.
"""

import contextlib
import os
import pwd
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

PATIENCE = 10.0


def account(name: str) -> dict[str, object]:
    """What `subprocess` needs to run a command as `name`; nothing unless we are root."""
    if not name or os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(name)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def family(pid: int) -> list[int]:
    """A process and its children: PostgreSQL has one for each connection, and each is a group of its own."""
    children: list[str] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            children += (thread / "children").read_text().split()
    return [pid, *map(int, children)]


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def main() -> None:
    signal_name, user, folder, *command = sys.argv[1:]
    child_moved, wakeup = os.pipe()
    os.set_blocking(wakeup, False)
    signal.set_wakeup_fd(wakeup)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=sys.stderr, cwd=folder, start_new_session=True, **account(user)
    )
    print(server.pid, flush=True)
    os.close(sys.stdout.fileno())
    while server.poll() is None:
        ready, _, _ = select.select([sys.stdin.fileno(), child_moved], [], [])
        if child_moved in ready:  # ended, or paused
            os.read(child_moved, 1)
        else:
            end(server, signal.Signals[signal_name])
            discard(Path(folder))
    os._exit(0)  # the interpreter would complain about the closed stdout


def end(server: subprocess.Popen[bytes], number: signal.Signals) -> None:
    everyone = family(server.pid)
    signal_all(everyone, signal.SIGCONT)  # it may be paused
    signal_all([server.pid], number)
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        signal_all(everyone, signal.SIGKILL)
        server.wait()


def discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        if not any(path.is_dir() for path in folder.parent.iterdir()):
            shutil.rmtree(folder.parent, ignore_errors=True)


if __name__ == "__main__":
    main()
