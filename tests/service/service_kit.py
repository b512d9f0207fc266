"""The service of examples/ as real processes, and clients that speak to it over sockets."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import httpx

from servers.base import GUARD, free_port

HERE = Path(__file__).parent
PATIENCE = 60.0


class Service:
    """uvicorn with two workers on a free port of this machine; killed in the end, if it still runs."""

    def __init__(self, folder: Path, url: str, *, workers: int = 2, **environment: str) -> None:
        self.url, self.home = url, folder / "home"
        self.log = folder / "log"
        self._workers = workers
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("AGENTSTORE_", "OPENAI_"))}
        clean |= {
            "DATABASE_URL": url,
            "AGENTSTORE_HOME": str(self.home),
            "MODEL_FOLDER": str(folder),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), *sys.path])),
            **environment,
        }
        command = [sys.executable, "-P", "-m", "uvicorn", "--factory", "service_app:create", "--port", str(port)]
        # A connection that comes as it is told to end may else keep it for as long as its client likes.
        command += ["--timeout-graceful-shutdown", "3"]
        command += ["--workers", str(workers), "--no-access-log"]
        own = folder / "guarded" / "service"  # the guard removes it when this process is killed
        own.mkdir(parents=True)
        lifeline, self._held = os.pipe()
        with self.log.open("wb") as log:
            self._guard = subprocess.Popen(
                [sys.executable, "-I", str(GUARD), "SIGTERM", "", str(own), *command],
                env=clean,
                stdin=lifeline,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        os.close(lifeline)
        with self._guard.stdout:
            self.pid = int(self._guard.stdout.readline())

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def __enter__(self):
        try:
            self.until(lambda: self.said().count("Application startup complete.") >= self._workers)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._guard.wait()
        os.close(self._held)

    def until(self, condition) -> None:
        """Wait until it holds, and fail if it does not, or the service has ended."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, self.said()
            assert self._guard.poll() is None, self.said()
            time.sleep(0.02)

    def terminate(self) -> None:
        """End it in good order, as an orchestrator does, and wait for its end."""
        os.kill(self.pid, signal.SIGTERM)
        self._guard.wait(PATIENCE)

    def client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_keepalive_connections=None)
        return httpx.AsyncClient(base_url=self.address, timeout=PATIENCE, limits=limits, trust_env=False)


def turn(session_id: str, prompt: str, key: str = "", user: str = "") -> dict:
    """The arguments of a request for a turn."""
    headers = {"Idempotency-Key": key} if key else {}
    headers |= {"X-User-Id": user} if user else {}
    return {"json": {"session_id": session_id, "prompt": prompt}, "headers": headers}


def assert_stored(messages, answered: dict[str, str], asked: list[str]) -> None:
    """Of one session: every answered prompt once, with the answer that its client got, in the order asked."""
    prompts = [message.content for message in messages if message.role == "user"]
    assert set(answered) <= set(prompts) <= set(asked)
    assert max(Counter(prompts).values(), default=1) == 1
    assert prompts == [prompt for prompt in asked if prompt in set(prompts)]
    answers = {}
    for message in messages:
        if message.role == "assistant":
            assert message.run_id not in answers, "a turn has two answers"
            answers[message.run_id] = message.content
    found = {message.content: answers.get(message.run_id) for message in messages if message.role == "user"}
    assert {prompt: found[prompt] for prompt in answered} == answered
