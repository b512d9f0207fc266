"""What persistence costs a web service: examples/fastapi_service.py under load, beside the same service without any.

python benchmarks/service.py --url postgresql://... --seconds 10 --clients 1 32 256

The server runs as uvicorn does in production, in processes of its own; the clients here speak HTTP over sockets. Each
client has a session and sends one turn after the other; the model takes 20 ms. Servers of each durability, and of none,
take turns; the figures are medians over the repeats. After each server's end the store is audited: every turn that was
answered is there once, with its answer, in the order in which it was sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

from agentstore import Message, db  # noqa: E402  from this checkout

NONE = "none"
DURABILITIES = ("commit", "journal", "memory")
MODEL_SECONDS = 0.02
WAIT = 60.0


# --- the server ---


class Bare:
    """What answers in an Agent's place where nothing is stored."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def achat(self, prompt: str, **_: object) -> str:
        """The model's answer."""
        return (await self._model.complete([Message("user", prompt)], [])).content


def create() -> Any:
    """The example's service, as uvicorn's workers make it."""
    from fastapi_service import Settings, create_app, the_agent  # noqa: PLC0415  the clients need no FastAPI

    settings = Settings()
    app = create_app(settings)
    if os.environ.get("PERSISTENCE") == NONE:
        bare = Bare(settings.model())
        app.dependency_overrides[the_agent] = lambda: bare
    return app


class Server:
    """uvicorn on a free port; `with` waits until it serves, and for its end."""

    def __init__(self, mode: str, url: str, workers: int, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._workers, self._log = workers, folder / "server.log"
        environment = {
            **os.environ,
            "DATABASE_URL": "memory:" if mode == NONE else url,
            "PERSISTENCE": mode,
            "DURABILITY": "commit" if mode == NONE else mode,
            "MODEL_SECONDS": str(MODEL_SECONDS),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT)]),
        }
        command = [sys.executable, "-m", "uvicorn", "--factory", "service:create", "--port", str(self.port)]
        command += ["--workers", str(workers), "--no-access-log", "--timeout-graceful-shutdown", "10"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + WAIT
        while self._log.read_text().count("Application startup complete.") < self._workers:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise SystemExit(f"the server did not start:\n{self._log.read_text()}")
            time.sleep(0.02)
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.terminate()
        self._process.wait(WAIT)

    def kill_worker(self) -> None:
        """End one of the workers as a machine's memory killer does; uvicorn starts another."""
        me = self._process.pid
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split() if self._workers > 1 else []
        for child in children:
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(int(child), signal.SIGKILL)
                return
        raise SystemExit("--kill-worker needs two workers")


# --- the clients ---


@dataclass
class Client:
    """One session: its turns, what was answered, and how long each took. A cut request is sent again, by its key."""

    port: int
    session: str
    asked: list[str] = field(default_factory=list)
    answered: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    resent: int = 0
    _reader: asyncio.StreamReader | None = None
    _writer: asyncio.StreamWriter | None = None

    async def run(self, until: float) -> None:
        """Turns until then; the one under way is seen to its end."""
        while time.monotonic() < until:
            prompt = f"turn {len(self.asked)}"
            self.asked.append(prompt)
            start = time.perf_counter()
            self.answered[prompt] = await self._turn(prompt)
            self.seconds.append(time.perf_counter() - start)
        self._close()

    async def _turn(self, prompt: str) -> str:
        body = json.dumps({"session_id": self.session, "prompt": prompt}).encode()
        head = f"POST /turns HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Idempotency-Key: {self.session}-{prompt}\r\n\r\n".encode() + body
        deadline = time.monotonic() + WAIT
        while True:
            with contextlib.suppress(OSError, EOFError):  # its worker was killed
                status, answer = await self._exchange(request)
                if status == HTTPStatus.OK:
                    return json.loads(answer)["answer"]
                if status != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise SystemExit(f"HTTP {status}: {answer.decode()}")
            if time.monotonic() > deadline:
                raise SystemExit("a turn was not answered in a minute")
            self.resent += 1
            self._close()
            await asyncio.sleep(0.05)

    async def _exchange(self, request: bytes) -> tuple[int, bytes]:
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writer.write(request)
        if hasattr(socket, "TCP_QUICKACK"):
            # uvicorn's workers send head and body apart, on sockets that wait for an acknowledgement between: 40 ms.
            own = self._writer.get_extra_info("socket")
            own.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        return int(head.split(" ", 2)[1]), await self._reader.readexactly(length)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


@dataclass
class Run:
    """One sample: so many clients, for so long."""

    mode: str
    clients: list[Client]
    elapsed: float

    def figures(self) -> dict[str, float]:
        """Requests per second, and milliseconds at three places of the order."""
        took = sorted(seconds * 1e3 for client in self.clients for seconds in client.seconds)
        at = {f"p{part}": took[min(len(took) * part // 100, len(took) - 1)] for part in (50, 95, 99)}
        return {"requests/s": len(took) / self.elapsed, **at}


async def load(server: Server, mode: str, count: int, options: argparse.Namespace) -> Run:
    """Drive the server with so many clients at once."""
    name = f"bench-{secrets.token_hex(4)}"
    clients = [Client(server.port, f"{name}-{number}") for number in range(count)]
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for client in clients:
            group.create_task(client.run(start + options.seconds))
        if options.kill_worker:
            await asyncio.sleep(options.seconds / 2)
            server.kill_worker()
    return Run(mode, clients, time.monotonic() - start)


# --- the audit ---


async def audit(url: str, runs: list[Run]) -> list[str]:
    """What is wrong in the store, which no server has open now."""
    wrong = []
    async with db(url) as database:  # it first stores what journals of killed workers hold
        for client in (client for run in runs for client in run.clients):
            wrong += [f"{client.session}: {fault}" for fault in faults(client, await database.messages(client.session))]
            await database.delete_session(client.session)
    return wrong


def faults(client: Client, messages: list[Message]) -> list[str]:
    """What a session lacks, has twice, or has out of order."""
    prompts = [str(message.content) for message in messages if message.role == "user"]
    found = []
    if prompts != client.asked:
        found.append(f"{len(client.asked)} turns were answered; stored are {len(prompts)}, or in another order")
    runs = {message.run_id: str(message.content) for message in messages if message.role == "user"}
    answers = [(runs.get(m.run_id), m.content) for m in messages if m.role == "assistant"]
    if sorted(map(str, answers)) != sorted(map(str, client.answered.items())):
        found.append("answers are missing, doubled, or not those that were given")
    return found


# --- the whole ---


def sample(options: argparse.Namespace, folder: Path) -> tuple[dict[tuple[str, int], list[dict[str, float]]], int]:
    """All runs, servers taking turns."""
    figures: dict[tuple[str, int], list[dict[str, float]]] = {}
    audited = 0
    for repeat in range(options.repeats):
        for mode in (NONE, *options.durabilities):
            runs = []
            with Server(mode, options.url, options.workers, folder) as server:
                for count in options.clients:
                    runs.append(asyncio.run(load(server, mode, count, options)))
                    figures.setdefault((mode, count), []).append(runs[-1].figures())
            if mode != NONE and (wrong := asyncio.run(audit(options.url, runs))):
                raise SystemExit("\n".join([f"the audit of {mode} found:", *wrong]))
            turns = sum(len(client.asked) for run in runs for client in run.clients)
            audited += turns if mode != NONE else 0
            resent = sum(client.resent for run in runs for client in run.clients)
            print(f"{repeat + 1}/{options.repeats} {mode}: {turns} turns, {resent} sent again", file=sys.stderr)
    return figures, audited


def rows(figures: dict[tuple[str, int], list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Medians, and what persistence adds to the p50."""
    medians = {
        key: {name: statistics.median(one[name] for one in samples) for name in samples[0]}
        for key, samples in figures.items()
    }
    return [
        {"durability": mode, "clients": count, **median, "share": median["p50"] - medians[NONE, count]["p50"]}
        for (mode, count), median in sorted(medians.items(), key=lambda item: item[0][1])
    ]


def main() -> None:
    """Run the loads that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="the store; a new SQLite file by default")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each sample")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32, 256], help="how many at once")
    parser.add_argument("--workers", type=int, default=2, help="of uvicorn")
    parser.add_argument("--repeats", type=int, default=3, help="samples of each")
    parser.add_argument("--durabilities", nargs="+", choices=DURABILITIES, default=DURABILITIES)
    parser.add_argument("--kill-worker", action="store_true", help="kill -9 one in the middle of each sample")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    options = parser.parse_args()
    if options.kill_worker:  # "memory" promises nothing of the last moment before a kill -9
        options.durabilities = [each for each in options.durabilities if each != "memory"]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.environ["AGENTSTORE_HOME"] = f"{name}/home"
        options.url = options.url or f"sqlite:///{name}/service.db"
        figures, audited = sample(options, Path(name))
    table = rows(figures)
    if options.json:
        print(json.dumps({"rows": table, "audited": audited, "workers": options.workers}))
        return
    print(f"{'':10}{'clients':>8}{'req/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'persistence ms':>16}")
    for row in table:
        numbers = [row["requests/s"], row["p50"], row["p95"], row["p99"]]
        cells = "".join(f"{number:9.1f}" for number in numbers)
        print(f"{row['durability']:10}{row['clients']:8}{cells}{row['share']:+16.2f}")
    print(f"audit: {audited} answered turns are stored once each, with their answers, in order")


if __name__ == "__main__":
    main()
