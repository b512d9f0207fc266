"""What the tests of the Redis driver share."""

import asyncio

from agentstore.drivers.redis import RedisBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append, Read
from agentstore.records import Message
from agentstore.url import StoreURL

PATIENT = 30.0  # seconds for what ends at once unless it is broken


def make(url, **options):
    return RedisBackend(StoreURL.parse(url), PoolOptions(**options))


def with_options(url, **options):
    """The URL with further options, or with others."""
    parts = StoreURL.parse(url)
    return StoreURL(
        parts.scheme, parts.username, parts.password, parts.hosts, parts.path, {**parts.options, **options}
    ).secret


def with_parts(url, **parts):
    """The URL with some of its parts replaced."""
    old = StoreURL.parse(url)
    fields = {name: getattr(old, name) for name in ("scheme", "username", "password", "hosts", "path", "options")}
    return StoreURL(**{**fields, **parts}).secret


def say(text="hello", **fields):
    return Message("user", text, **fields)


def turn(session_id, *texts, **fields):
    return Append(session_id, tuple(say(text) for text in texts or ("hello",)), **fields)


async def texts(backend, session_id="s"):
    """What a session's messages say."""
    (messages,) = await backend.read([Read(session_id)])
    return [message.content for message in messages]


async def eventually(condition):
    """Wait until the condition holds."""
    async with asyncio.timeout(PATIENT):
        while not await condition():
            await asyncio.sleep(0.02)


class Proxy:
    """Stands between a client and a server, and does to their talk what the test wants.

    Attributes:
        cut_answer: Which of the answers to come (1 is the next) is lost: its request was carried out, then the
            connection ends. 0: none.
        instead: Answers for the next requests, which the server never sees.
        requests: How many pieces have gone to the server.
    """

    def __init__(self, port):
        self._port = port
        self._server = None
        self._tasks = set()
        self.cut_answer, self.instead, self.requests = 0, [], 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def hosts(self):
        return (self._server.sockets[0].getsockname(),)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        answers = asyncio.create_task(self._pump(there, writer))
        try:
            while data := await reader.read(2**20):
                if self.instead:
                    writer.write(self.instead.pop(0))
                    continue
                self.requests += 1
                back.write(data)
        finally:
            answers.cancel()
            for end in (writer, back):
                end.close()

    async def _pump(self, reader, writer):
        while data := await reader.read(2**20):
            if self.cut_answer:
                self.cut_answer -= 1
                if not self.cut_answer:
                    writer.close()
                    return
            writer.write(data)
