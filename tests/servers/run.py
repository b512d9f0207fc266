"""One run of the tests, and the servers that it shares."""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from . import authority, mysql, postgresql, redis
from .base import PATIENCE, PrivateServer, Server, ServerError, make_root, variable
from .clickhouse import ClickHouse
from .mongodb import MongoDB
from .mysql import MySQL
from .postgresql import PgBouncer, PostgreSQL
from .redis import Cluster, Redis, Sentinel

REPLICATED = (postgresql.Replicated, mysql.Replicated, redis.Replicated)
"""Only for those who start one of their own: `shared` tells one URL."""
CLASSES = (PostgreSQL, PgBouncer, MySQL, Redis, Cluster, Sentinel, ClickHouse, MongoDB)
KINDS: dict[str, type[Server]] = {server.kind: server for server in CLASSES}
RUN = "AGENTSTORE_TEST_SERVERS"
"""The environment variable that names the folder of the run (`Run.root`), for `shared` in any of its processes."""


@dataclass(frozen=True)
class Running:
    """A server that is there.

    Attributes:
        url: Where a store may be, as agentstore takes it.
        tls_url: Where it speaks TLS, without the options that ask for it; empty if it does not.
        ca: The file of the authority to trust; empty likewise.
        folder: What holds its logs, and sockets: `postgresql-server/.s.PGSQL.*`, `mysql/socket`, `redis/socket`.
    """

    url: str
    tls_url: str = ""
    ca: str = ""
    folder: str = ""


class Run:
    """The life of shared servers: they end when it closes, or when its process does, however that ends."""

    def __init__(self, *, durable: bool = False) -> None:
        self.root = make_root(durable=durable)
        if durable:
            (self.root / "durable").touch()
        lifeline = self.root / "lifeline"
        os.mkfifo(lifeline)
        self._held = os.open(lifeline, os.O_RDWR)  # for writing alone it would wait for a reader

    def close(self) -> None:
        """End the servers and wait for that.

        Raises:
            ServerError: One is still there.
        """
        os.close(self._held)
        deadline = time.monotonic() + PATIENCE
        while folders := _folders(self.root):
            if time.monotonic() > deadline:
                raise ServerError(f"servers that do not end: {', '.join(map(str, folders))}")
            time.sleep(0.02)
        shutil.rmtree(self.root, ignore_errors=True)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:  # the last guard removes it
        return []


def shared(kind: str) -> Running:
    """The server of a kind that all tests share, started if it is not there yet.

    Raises:
        ServerError: It is not installed, does not start or does not answer.
    """
    given = os.environ.get(variable(kind))
    if given:
        return _given(kind, given)
    if RUN not in os.environ:
        raise ServerError("no run would end the servers: tests/conftest.py and `python tests/servers` make one")
    root = Path(os.environ[RUN])
    record = root / f"{kind}.json"
    with FileLock(root / f"{kind}.lock"):
        if not record.exists():
            record.write_text(json.dumps(_started(kind, root)))
    found = json.loads(record.read_text())
    if "error" in found:
        raise ServerError(found["error"])
    return Running(**found)


def _given(kind: str, url: str) -> Running:
    try:
        KINDS[kind].ping(url)
    except Exception as error:
        raise ServerError(f"the server of ${variable(kind)} does not answer: {error!r}") from error
    return Running(url)


def _started(kind: str, root: Path) -> dict[str, str]:
    """Start a server; what there is to know of it. A failure is known too: the next test need not wait for another."""
    with FileLock(root / "authority.lock"):
        if not (root / "server.pem").exists():
            authority.write_files(root)
    lifeline = os.open(root / "lifeline", os.O_RDONLY)
    try:
        server = KINDS[kind](root, durable=(root / "durable").exists())
        server.start(lifeline)
    except ServerError as error:
        return {"error": str(error)}
    finally:
        os.close(lifeline)
    for process in server.processes:
        process.forget()
    return asdict(Running(server.url, server.tls_url, str(root / "ca.pem"), str(root)))


@contextmanager
def fresh(kind: str) -> Iterator[str]:
    """The URL of an empty store on the shared server, removed at the end: a database, or a prefix of keys on Redis."""
    url = shared(kind).url
    name = f"test_{uuid.uuid4().hex}"
    try:
        yield KINDS[kind].create(url, name)
    finally:
        KINDS[kind].drop(url, name)


@contextmanager
def private_server(kind: str, *arguments: str, durable: bool = False) -> Iterator[PrivateServer]:
    """A server of one's own, started; `arguments` are added to its command line.

    Raises:
        ServerError: As `shared`.
    """
    root = make_root(durable=durable)
    try:
        authority.write_files(root)
        classes = KINDS | {server.kind: server for server in REPLICATED}
        server = PrivateServer(classes[kind](root, arguments, durable=durable))
    except BaseException:
        shutil.rmtree(root)
        raise
    try:
        server.start()
        yield server
    finally:
        server.close()
