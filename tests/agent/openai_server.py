"""A server that speaks the OpenAI chat completions interface over a real socket, as a test tells it."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answer(content=None, tool_calls=None, finish="stop"):
    """The body of a whole completion."""
    message = {"role": "assistant", "content": content}
    if tool_calls:
        message["tool_calls"] = tool_calls
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
    }


def chunk(finish=None, **delta):
    """One event of a stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


def function(call_id, name, arguments, **more):
    """A tool call, or a piece of one."""
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
        reply = self.server.replies.pop(0)
        if isinstance(reply, tuple):
            status, reply = reply
            self._send(status, "application/json", json.dumps(reply).encode())
        elif isinstance(reply, dict):
            self._send(200, "application/json", json.dumps(reply).encode())
        else:
            self._stream(reply)

    def _send(self, status, kind, data):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("x-should-retry", "false")
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in events:
                if callable(event):
                    event()
                    continue
                data = event if isinstance(event, str) else json.dumps(event)
                self.wfile.write(f"data: {data}\n\n".encode())
                self.wfile.flush()
        except OSError:
            self.server.cut.set()  # the client has gone

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    """The server, on a free port; `replies` is what it says, `requests` what it heard."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.replies, server.requests, server.cut = [], [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
