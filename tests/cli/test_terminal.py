"""`agentstore chat` at a terminal: a real pty, real keys, and a server that streams as slowly as it is told."""

import http.server
import json
import os
import select
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from agentstore import db

pty = pytest.importorskip("pty", reason="the terminals of POSIX")

PATIENCE = 30.0
CTRL_C, CTRL_D = "\x03", "\x04"
# The child makes the pty its controlling terminal, so that Ctrl-C becomes SIGINT there as it does for a person.
CHILD = (
    "import fcntl, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "runpy.run_module('agentstore', run_name='__main__', alter_sys=True)"
)


class Terminal:
    """A program at a pty: type to it, and wait for what it shows."""

    def __init__(self, folder, *arguments: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**os.environ, "AGENTSTORE_MODEL": "offline", "COLUMNS": "200", "TERM": "dumb", **environment},
            start_new_session=True,
        )
        os.close(slave)
        self._unread = ""

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def press_ctrl_c(self) -> None:
        """At the prompt: a signal that comes just before readline begins to wait is only noticed with the next one."""
        for _ in range(int(PATIENCE)):
            self.type(CTRL_C)
            if select.select([self._master], [], [], 1.0)[0]:
                return

    def wait_for(self, text: str) -> str:
        """What was shown since the last wait, up to and with `text`."""
        deadline = time.monotonic() + PATIENCE
        while text not in self._unread:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited for {text!r}, saw {self._unread!r}"
            try:
                data = os.read(self._master, 4096)
            except OSError:  # Linux's way to say that the other end was closed
                data = b""
            assert data, f"the program ended; waited for {text!r}, saw {self._unread!r}"
            self._unread += data.decode()
        seen, _, self._unread = self._unread.partition(text)
        return seen + text

    def ended(self) -> int:
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)


@contextmanager
def terminal(folder, *arguments: str, **environment: str):
    it = Terminal(folder, *arguments, **environment)
    try:
        yield it
    finally:
        it.close()


def stored(folder, session_id: str):
    with db(f"sqlite:///{folder}/agentstore.db") as database:
        return [(m.role, m.content, m.metadata) for m in database.sync.messages(session_id)]


@pytest.mark.parametrize("farewell", [CTRL_D, CTRL_C, "/exit\n"], ids=["Ctrl-D", "Ctrl-C", "exit"])
def test_a_conversation_and_its_resumption(tmp_path, farewell):
    with terminal(tmp_path, "chat", "--session", "s") as it:
        assert "New session s" in it.wait_for("you> ")
        it.type("My name is Ann\n")
        assert "assistant> I will remember: your name is Ann." in it.wait_for("\r\nyou> ")
        it.press_ctrl_c() if farewell == CTRL_C else it.type(farewell)
        it.wait_for("agentstore chat --session s")
        assert it.ended() == 0
    with terminal(tmp_path, "chat", "--session", "s") as it:
        assert "Resuming session s: 2 messages" in it.wait_for("you> ")
        it.type("Who am I?\n")
        assert "Your name is Ann." in it.wait_for("\r\nyou> ")
        it.type("/history\n")
        assert "Your name is Ann." in it.wait_for("\r\nyou> ")
        it.type(CTRL_D)
        assert it.ended() == 0
    assert [role for role, _, _ in stored(tmp_path, "s")] == ["user", "assistant"] * 2


@pytest.fixture
def server():
    """An OpenAI-compatible server: for "slow" it sends two words and then nothing, for "broken" an error."""
    stop = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = request["messages"][-1]["content"]
            self.send_response(400 if prompt == "broken" else 200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            if prompt == "broken":
                return
            self._chunk({"content": "Once upon "}, None)
            if prompt == "slow":
                stop.wait(PATIENCE)
                return
            self._chunk({"content": "a time."}, "stop")
            self.wfile.write(b"data: [DONE]\n\n")

        def _chunk(self, delta, finish):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield {"OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}/v1", "OPENAI_API_KEY": "sk-none"}
    stop.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_ctrl_c_interrupts_the_answer_and_keeps_it(tmp_path, server):
    with terminal(tmp_path, "chat", "--session", "s", "--model", "openai:m", **server) as it:
        it.wait_for("you> ")
        it.type("slow\n")
        it.wait_for("Once upon ")
        it.type(CTRL_C)
        assert "[interrupted]" in it.wait_for("you> ")
        assert stored(tmp_path, "s") == [("user", "slow", {}), ("assistant", "Once upon ", {"interrupted": True})]
        it.type("go on\n")
        assert "Once upon a time." in it.wait_for("you> ")
        it.type(CTRL_D)
        assert it.ended() == 0
    assert [content for _, content, _ in stored(tmp_path, "s")] == ["slow", "Once upon ", "go on", "Once upon a time."]


def test_a_failed_turn_does_not_end_the_conversation(tmp_path, server):
    with terminal(tmp_path, "chat", "--session", "s", "--model", "openai:m", **server) as it:
        it.wait_for("you> ")
        it.type("broken\n")
        seen = it.wait_for("you> ")
        assert "agentstore: the model 'openai:m' gave no answer" in seen
        assert "Traceback" not in seen
        it.type("hello\n")
        assert "Once upon a time." in it.wait_for("you> ")
        it.type(CTRL_D)
        assert it.ended() == 0
