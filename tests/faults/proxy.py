"""A network that fails: a TCP proxy on the loopback. It has a thread of its own: a blocked test does not stall it."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

HOST = "127.0.0.1"
_PIECE = 65_536


class Proxy:
    """Stands between clients and a server; each call takes effect before it returns.

    Args:
        target: The server's port.
        port: Where to listen; any free one by default. It stays the same through `refuse` and `heal`.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target, self.port = target, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._seconds, self._budget, self._way = 0.0, -1, "up"
        self._swallows = False
        self._flows = asyncio.Event()
        self._flows.set()
        self.cuts = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen)
        return self

    def __exit__(self, *exc: object) -> None:
        self._do(self._end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._links)

    def through(self, url: str) -> str:
        """The URL of the server, by way of this proxy."""
        before, port, after = url.partition(f"{HOST}:{self._target}")
        assert port, "the URL does not name the server's port"
        return f"{before}{HOST}:{self.port}{after}"

    # --- what can be done to the network ---

    def delay(self, seconds: float) -> None:
        """Let every byte from now on come so much later, each way."""
        self._do(self._set, _seconds=seconds)

    def cut(self, after: int | None = None, way: str = "up") -> None:
        """End all connections now, or once: when so many more bytes went `way` ("up" to the server, or "down")."""
        if after is None:
            self._do(self._cut)
        else:
            self._do(self._set, _budget=after, _way=way)

    def blackhole(self) -> None:
        """Accept everything, deliver and answer nothing, on open connections too."""
        self._do(self._set, _swallows=True)

    def stall(self) -> None:
        """Hold everything back; `heal` delivers it, late."""
        self._do(self._stall)

    def refuse(self) -> None:
        """Listen no more; open connections stay."""
        self._do(self._refuse)

    def heal(self) -> None:
        """Be a good network again. Connections of which bytes were swallowed end."""
        self._do(self._heal)

    # --- on the thread ---

    def _do(self, act: Callable[..., Coroutine[Any, Any, None]], **arguments: Any) -> None:
        asyncio.run_coroutine_threadsafe(act(**arguments), self._loop).result(30)

    async def _set(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, name, value)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port, limit=_PIECE)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(0)  # whoever is being let in is let in whole
            self._server.close()
            self._server = None

    async def _cut(self) -> None:
        self._budget = -1
        self.cuts += 1
        for link in self._links:
            link.abort()

    async def _stall(self) -> None:
        self._flows.clear()

    async def _heal(self) -> None:
        if self._swallows:
            await self._cut()
        self._seconds, self._budget, self._swallows = 0.0, -1, False
        self._flows.set()
        await self._listen()

    async def _end(self) -> None:
        await self._refuse()
        self._swallows = True
        self._flows.set()
        await self._cut()
        await asyncio.gather(*(link.task for link in self._links))
        await asyncio.sleep(0)  # aborted transports close in the loop's next turn

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = _Link(writer)
        self._links.add(link)
        try:
            there, to_there = await asyncio.open_connection(HOST, self._target, limit=_PIECE)
            link.writers.append(to_there)
            for end in link.writers:
                end.transport.set_write_buffer_limits(0)  # what was drained is with the system
                end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, to_there, "up"))
                group.create_task(self._pump(there, writer, "down"))
        except* OSError:
            pass  # one end has gone, or the server is not there: the other end learns it by its own end
        finally:
            link.abort()
            self._links.discard(link)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

        async def deliver() -> None:
            while True:
                due, piece = await pieces.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                await self._flows.wait()
                if not self._swallows:
                    await self._pass_on(writer, piece, way)
                if not piece:
                    return

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while piece := await reader.read(_PIECE):
                await pieces.put((self._loop.time() + self._seconds, piece))
            await pieces.put((self._loop.time() + self._seconds, b""))

    async def _pass_on(self, writer: asyncio.StreamWriter, piece: bytes, way: str) -> None:
        counts = self._budget >= 0 and way == self._way
        cuts = counts and len(piece) > self._budget
        if not piece:
            writer.write_eof()
            return
        writer.write(piece[: self._budget] if cuts else piece)
        if counts:
            self._budget -= len(piece)
        await writer.drain()
        if cuts:
            await self._cut()


class _Link:
    """A connection: the client's end, and the server's."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writers = [writer]
        task = asyncio.current_task()
        assert task is not None
        self.task = task

    def abort(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(RuntimeError):  # it is closed already
                writer.transport.abort()
