"""Servers that are not what they should be: what they are told, and what they are never told."""

import asyncio
import hashlib
import os
import socket
import ssl
import struct

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from mysql_kit import make

from agentstore import errors
from servers import authority

pytestmark = pytest.mark.anyio


class Impostor:
    """Speaks the handshake of MySQL as the test says, and keeps what it is sent."""

    def __init__(self, plugin, dialogue=None, context=None):
        self.plugin, self.dialogue, self.context = plugin, dialogue, context
        self.heard = b""
        self.salt = os.urandom(20).replace(b"\0", b"x")

    async def __aenter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)  # noqa: FBT003  its signature
        self._task = asyncio.create_task(self._serve())
        return f"mysql://user:the_p%40ssword@127.0.0.1:{self._listener.getsockname()[1]}/d"

    async def __aexit__(self, *exc):
        self._listener.close()
        await self._task

    def _framed(self, payload):
        self._number += 1
        return struct.pack("<I", len(payload))[:3] + bytes([self._number]) + payload

    async def say(self, payload):
        self._writer.write(self._framed(payload))
        await self._writer.drain()

    async def hear(self):
        header = await self._reader.readexactly(4)
        self._number = header[3]
        payload = await self._reader.readexactly(int.from_bytes(header[:3], "little"))
        self.heard += payload
        return payload

    def _greeting(self):
        flags = 0x000FF7DF | (0x800 if self.context else 0)
        head = b"\x0a8.4.0\0" + struct.pack("<I", 7) + self.salt[:8] + b"\0" + struct.pack("<H", flags & 0xFFFF)
        rest = b"\xff" + struct.pack("<HHB", 2, flags >> 16, 21) + b"\0" * 10 + self.salt[8:] + b"\0"
        return head + rest + self.plugin.encode() + b"\0"

    async def _serve(self):
        loop = asyncio.get_running_loop()
        peer, _ = await loop.sock_accept(self._listener)
        self._number = -1
        await loop.sock_sendall(peer, self._framed(self._greeting()))
        if self.context:
            asked = 36  # bytes; what follows is TLS
            while asked:
                asked -= len(await loop.sock_recv(peer, asked))
            self._number += 1
        self._reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(self._reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, peer, ssl=self.context)
        self._writer = asyncio.StreamWriter(transport, protocol, self._reader, loop)
        try:
            await self.hear()
            if self.dialogue:
                await self.dialogue(self)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has heard enough
        finally:
            transport.abort()
            await asyncio.sleep(0)


DENIED = b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied"


async def refused(url, match):
    with pytest.raises(errors.ConfigurationError, match=match) as caught:
        await make(url).aopen()
    assert "the_p@ssword" not in str(caught.value)


async def switch(impostor):
    await impostor.say(b"\xfe" + b"mysql_clear_password\0" + impostor.salt + b"\0")
    await impostor.hear()


@pytest.mark.parametrize(
    ("plugin", "dialogue"), [("mysql_clear_password", None), ("mysql_native_password", switch)], ids=["first", "later"]
)
async def test_the_password_never_goes_out_in_clear(plugin, dialogue):
    impostor = Impostor(plugin, dialogue)
    async with impostor as url:
        await refused(url, "in clear")
    assert b"the_p@ssword" not in impostor.heard


async def test_no_key_is_taken_from_a_server_that_nobody_vouches_for():
    asked = []

    async def full(impostor):
        await impostor.say(b"\x01\x04")
        asked.append(await impostor.hear())

    impostor = Impostor("caching_sha2_password", full)
    async with impostor as url:
        await refused(url, "get-server-public-key")
    assert asked == []


async def test_caching_sha2_without_tls():
    key = rsa.generate_private_key(65537, 2048)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    found = []

    async def dialogue(impostor):
        await impostor.say(b"\x01\x04")
        assert await impostor.hear() == b"\x02"
        await impostor.say(b"\x01" + public)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None)
        mixed = key.decrypt(await impostor.hear(), oaep)
        found.append(bytes(a ^ impostor.salt[n % 20] for n, a in enumerate(mixed)))
        await impostor.say(DENIED)

    async with Impostor("caching_sha2_password", dialogue) as url:
        await refused(url + "?get-server-public-key=true", "does not accept")
    assert found == [b"the_p@ssword\0"]


async def test_caching_sha2_by_the_short_way():
    async def dialogue(impostor):
        first = hashlib.sha256(b"the_p@ssword").digest()
        second = hashlib.sha256(hashlib.sha256(first).digest() + impostor.salt).digest()
        assert bytes(a ^ b for a, b in zip(first, second, strict=True)) in impostor.heard
        await impostor.say(b"\x01\x03")
        await impostor.say(DENIED)
        known.append(True)

    known = []
    async with Impostor("caching_sha2_password", dialogue) as url:
        await refused(url, "does not accept")
    assert known == [True]


async def test_caching_sha2_over_tls(tmp_path):
    authority.write_files(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")

    async def dialogue(impostor):
        await impostor.say(b"\x01\x04")
        assert await impostor.hear() == b"the_p@ssword\0"  # TLS protects it
        await impostor.say(DENIED)
        known.append(True)

    known = []
    async with Impostor("caching_sha2_password", dialogue, context) as url:
        await refused(url, "does not accept")
    assert known == [True]


async def test_something_else_than_a_server():
    async def serve(reader, writer):
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(errors.AgentstoreError):
        await make(f"mysql://u:p@127.0.0.1:{port}/d", connect_timeout=1.0).aopen()
    server.close()
    await server.wait_closed()


async def test_a_server_that_says_nothing():
    gone = asyncio.Event()

    async def serve(reader, writer):
        await reader.read()
        writer.close()
        gone.set()

    silent = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(errors.UnavailableError, match=r"in time|within"):
        await make(f"mysql://u:p@127.0.0.1:{port}/d", connect_timeout=0.2).aopen()
    await gone.wait()
    silent.close()
    await silent.wait_closed()
