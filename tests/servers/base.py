"""What all kinds of servers have in common: processes under guard, ports, folders, waiting until they answer."""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from .guard import account, family, signal_all

USER = "agentstore"
PASSWORD = "p@ss/w:rd?#%41"  # each of these means something in a URL
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}"
HOST = "127.0.0.1"
PATIENCE = 60.0
GUARD = Path(__file__).with_name("guard.py")


class ServerError(Exception):
    """A server that is not there, or does not answer. It fails the tests that need it: none is ever skipped."""


class Process:
    """One process of a server, and its folder.

    Args:
        folder: Its own: data, settings, log.
        command: Program and arguments.
        check: Raises until the process answers as it should.
        account: Who it runs as if we are root.
        stop: Ends it in good order.
        discard: Ends it when its data is thrown away.
    """

    def __init__(
        self,
        folder: Path,
        command: list[str],
        check: Callable[[], object],
        *,
        account: str = "",
        stop: signal.Signals = signal.SIGTERM,
        discard: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.folder, self.command, self.check, self.account = folder, command, check, account
        self._stop, self._discard = stop, discard
        self._guard: subprocess.Popen[bytes] | None = None
        self.pid = 0

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, lifeline: int) -> None:
        """Start it and wait until it answers; it ends when all writers of the pipe `lifeline` are gone."""
        command = [sys.executable, "-I", str(GUARD), self._discard.name, self.account, str(self.folder), *self.command]
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                command, stdin=lifeline, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        with self._guard.stdout:
            self.pid = int(self._guard.stdout.readline() or 0)
        self.until(self.check)

    def until(self, check: Callable[[], object]) -> None:
        """Wait until `check` raises no more; `ServerError` if the process ends, or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while True:
            alive = self.running
            try:
                check()
            except Exception as error:
                if alive and time.monotonic() < deadline:
                    time.sleep(0.02)
                    continue
                what = "does not answer" if alive else "has ended"
                raise ServerError(f"{self.command[0]} {what}: {error!r}\n{self.log_tail()}") from error
            return

    @property
    def running(self) -> bool:
        return self._guard is not None and self._guard.poll() is None

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def forget(self) -> None:
        """Leave it to its guard: another process than this one may see it end."""
        self._guard.returncode = 0

    def stop(self) -> None:
        self._end([self.pid], self._stop)

    def kill(self) -> None:
        self._end(family(self.pid), signal.SIGKILL)

    def pause(self) -> None:
        signal_all(family(self.pid), signal.SIGSTOP)

    def resume(self) -> None:
        signal_all(family(self.pid), signal.SIGCONT)

    def _end(self, pids: list[int], number: signal.Signals) -> None:
        if self.running:
            signal_all(pids, number)
            self.join()

    def join(self) -> None:
        """Wait for its end."""
        if self._guard is not None:
            self._guard.wait(PATIENCE)


class Server:
    """A server of one kind: one or more processes that answer at one URL.

    Args:
        folder: Where its processes have their folders; `authority.write_files` has been there.
        arguments: Added to the command line of each process.
        durable: Keep the server's own durability, instead of leaving out fsync. Also without it a commit is with
            the operating system, and survives ``kill -9``.
    """

    kind: ClassVar[str]
    needs: ClassVar[tuple[str, ...]]  # programs
    url: str
    tls_url: str = ""

    def __init__(self, folder: Path, arguments: tuple[str, ...] = (), *, durable: bool = False) -> None:
        self.folder, self.arguments, self.durable = folder, arguments, durable
        for program in self.needs:
            find(program, self.kind)
        self.processes = self.prepare()

    def prepare(self) -> list[Process]:
        """Write data folders and settings; the processes in the order of their start."""
        raise NotImplementedError

    def settle(self) -> None:
        """Called when all processes run: raise until they work together."""

    def start(self, lifeline: int, processes: Iterable[Process] = ()) -> None:
        """Start all processes, or these, and wait until they answer."""
        for process in processes or self.processes:
            process.start(lifeline)
        if all(process.running for process in self.processes):
            self.processes[-1].until(self.settle)

    @staticmethod
    def ping(url: str) -> None:
        """Raise unless the server at `url` answers."""
        raise NotImplementedError

    @staticmethod
    def create(url: str, name: str) -> str:
        """The URL of an empty store called `name` on that server."""
        raise NotImplementedError

    @staticmethod
    def drop(url: str, name: str) -> None:
        """Remove that store."""
        raise NotImplementedError

    def own_folder(self, name: str, user: str = "") -> Path:
        folder = self.folder / name
        folder.mkdir()
        give(folder, user)
        return folder


class PrivateServer:
    """A server for one test, which may do to it what it likes; its port and its data stay.

    `server` is the `Server`; its `processes` can be killed and started one by one with the same four verbs.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url, self.tls_url, self.ca = server.url, server.tls_url, server.folder / "ca.pem"
        self._lifeline, self._held = os.pipe()

    def start(self, *processes: Process) -> None:
        """Start all its processes, or these, and wait until they answer."""
        self.server.start(self._lifeline, processes)

    def stop(self, *processes: Process) -> None:
        """End them in good order."""
        for process in reversed(processes or self.server.processes):
            process.stop()

    def kill(self, *processes: Process) -> None:
        """End them by SIGKILL."""
        for process in reversed(processes or self.server.processes):
            process.kill()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        for process in self.server.processes:
            process.pause()

    def resume(self) -> None:
        for process in self.server.processes:
            process.resume()

    def close(self) -> None:
        """End it and throw its data away."""
        os.close(self._held)
        os.close(self._lifeline)
        for process in self.server.processes:
            process.join()
        shutil.rmtree(self.server.folder, ignore_errors=True)


def find(program: str, kind: str) -> str:
    """The path of a program that a kind of server needs.

    Raises:
        ServerError: It is not installed.
    """
    places = [*os.get_exec_path(), "/usr/sbin", "/usr/local/sbin", "/sbin"]
    postgres = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found = shutil.which(program, path=os.pathsep.join([*places, *map(str, postgres)]))
    if found is None:
        raise ServerError(
            f"{program} is not installed, and {kind} needs it: run `make servers`, or set ${variable(kind)} to the URL "
            "of a running server"
        )
    return found


def variable(kind: str) -> str:
    """The environment variable that names a running server instead."""
    return f"AGENTSTORE_TEST_{kind.upper().replace('-', '_')}_URL"


def make_root(*, durable: bool) -> Path:
    """A new folder for servers: in memory if that is possible and nobody wants to measure the disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= 2**30
    place = "/var/tmp" if durable else str(memory) if roomy else None
    root = Path(tempfile.mkdtemp(prefix="agentstore-", dir=place))
    root.chmod(0o711)  # servers run as accounts of their own
    return root


def give(path: Path, user: str) -> None:
    """Make a path the account's own, if we are root."""
    if user and os.geteuid() == 0:
        shutil.chown(path, user, account(user)["group"])


def run_once(command: list[str], user: str, folder: Path) -> None:
    """Run a command that prepares a data folder."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **account(user))
    if done.returncode:
        raise ServerError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def free_port() -> int:
    """A port that nobody listens on, and no outgoing connection gets: it stays free while its server is down.

    It is held for this process by a locked file: another run may look for a port before our server listens on it.
    """
    folder = Path(tempfile.gettempdir()) / "agentstore-ports"
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(PermissionError):  # another account made it
        folder.chmod(0o1777)
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if _hold(folder / str(port)) and _is_free(port):
            return port


def _hold(path: Path) -> bool:
    try:
        held = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    except PermissionError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return False
    return True  # held until this process ends


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def wait_for(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end in a thread: this one may have a loop of its own."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _to_its_end(coroutine)).result()


async def _to_its_end(coroutine: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await coroutine
    finally:
        await asyncio.sleep(0)  # a connection that failed is closed in the loop's next turn
