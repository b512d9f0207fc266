"""Writers of the MongoDB driver that can be stopped, and a server that answers as it is told."""

import asyncio
import socketserver
import ssl
import struct
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import bson
import pymongo

from agentstore.drivers.mongodb import MongoDBBackend
from agentstore.drivers.mongodb.client import ClientPool
from agentstore.options import PoolOptions
from agentstore.pool import Pools
from agentstore.protocol import Append, Change, Head, Read
from agentstore.records import Message
from agentstore.url import StoreURL

POOL = PoolOptions()
WRITES = {"insert_many", "bulk_write", "delete_many", "update_one"}


def backend(url, pool=POOL):
    return MongoDBBackend(StoreURL.parse(url), pool)


def say(text, **fields):
    return Message("user", text, **fields)


def append(*messages, session_id="s", **fields):
    return Append(session_id, tuple(say(m) if isinstance(m, str) else m for m in messages), **fields)


def tables(url):
    """The store's collections, for a look behind the driver's back: ``with tables(url) as database``."""
    parsed = StoreURL.parse(url)
    return _database(parsed.secret, parsed.path.strip("/"))


@contextmanager
def _database(uri, name):
    with pymongo.MongoClient(uri) as client:
        yield client[name]


class Died(BaseException):
    """The writer is no more."""


class Stoppable:
    """A backend whose writing commands can be interrupted.

    ``await writer.hook(number, name)`` is called before its `number`-th writing command since `arm`, and
    ``await writer.after(number, name)`` when that is done.
    """

    def __init__(self, url):
        self.backend = backend(url, PoolOptions(max_lifetime=1801.0))  # other options: a pool of its own
        parsed = StoreURL.parse(url)
        self.backend._pools = Pools(parsed, self.backend._pool, lambda: _StoppablePool(self, parsed))
        self.arm(None)

    def arm(self, before=None, after=None):
        self.count, self.before, self.after = 0, before, after

    async def called(self, collection, name, args, kwargs):
        self.count += 1
        number = self.count
        if self.before:
            await self.before(number)
        result = await getattr(collection, name)(*args, **kwargs)
        if self.after:
            await self.after(number)
        return result


class _StoppablePool(ClientPool):
    def __init__(self, writer, parsed):
        super().__init__(parsed, writer.backend._pool)
        self._writer = writer

    async def acquire(self):
        return _Proxy(self._writer, await super().acquire())


class _Proxy:
    """Tables whose collections tell the writer before they write."""

    def __init__(self, writer, target):
        self._writer, self._target = writer, target

    def __getattr__(self, name):
        value = getattr(self._target, name)
        if name in WRITES:
            return lambda *args, **kwargs: self._writer.called(self._target, name, args, kwargs)
        if name in {"sessions", "messages", "state", "floors", "meta"}:
            return _Proxy(self._writer, value)
        return value


async def dying(writer, number, call, *, after):
    """Make a call of a writer that dies before (or after) its `number`-th writing command. Did it die?"""

    async def die(now):
        if now == number:
            raise Died

    writer.arm(**{"after" if after else "before": die})
    try:
        await call()
    except Died:
        return True
    finally:
        writer.arm()
    return False


@contextmanager
def wire(answer, tls=None):
    """A server on a free port: `answer` makes a reply of each command; `tls` is the folder of its certificate."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            try:
                while header := _exactly(self.request, 16):
                    length, request, _, code = struct.unpack("<iiii", header)
                    body = _exactly(self.request, length - 16)
                    start = 5 if code == 2013 else body.index(b"\0", 4) + 9
                    size = struct.unpack_from("<i", body, start)[0]
                    command = bson.decode(body[start : start + size])
                    reply = bson.encode(answer(command))
                    out = struct.pack("<IB", 0, 0) + reply
                    kind = 2013
                    if code != 2013:  # the first hello may come as OP_QUERY
                        out, kind = struct.pack("<iqii", 8, 0, 0, 1) + reply, 1
                    self.request.sendall(struct.pack("<iiii", 16 + len(out), 1, request, kind) + out)
            except OSError:
                pass  # the client has gone

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

        def get_request(self):
            sock, address = super().get_request()
            if tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(tls / "server.pem", tls / "server.key")
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            return sock, address

        def shutdown_request(self, request):
            request.close()

        def handle_error(self, request, client_address):
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def _exactly(sock, count):
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


HELLO = {
    "ok": 1,
    "isWritablePrimary": True,
    "localTime": datetime(2026, 1, 1, tzinfo=UTC),
    "maxBsonObjectSize": 2**24,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "minWireVersion": 0,
    "maxWireVersion": 25,
}


def is_hello(command):
    return "hello" in command or "ismaster" in command or "isMaster" in command


# --- what a session holds ---

FIRST = [f"m{number}" for number in range(1, 6)]
SHORT = timedelta(milliseconds=1)


async def texts(store, session_id="s", **bounds):
    (found,) = await store.read([Read(session_id, **bounds)])
    if not isinstance(found, list):
        raise found
    return [message.content for message in found]


async def head(store, session_id="s"):
    (found,) = await store.heads([Head(session_id)])
    return found


async def begun(store):
    """A session of messages m1, m2 ..., each appended alone."""
    for text in FIRST:
        (outcome,) = await store.append([append(text)])
        assert isinstance(outcome, list), outcome


async def expired(store):
    await begun(store)
    await store.update(Change("s", ttl=SHORT))
    while await head(store) is not None:
        await asyncio.sleep(0.002)
