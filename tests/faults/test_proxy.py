"""The network that fails, before a server that only echoes."""

import socket
import socketserver
import threading
import time

import pytest

from .proxy import HOST, Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while piece := self._piece():
            self.server.heard += piece
            self.request.sendall(piece)

    def _piece(self):
        try:
            return self.request.recv(65_536)
        except ConnectionResetError:
            return b""


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    heard = b""


@pytest.fixture
def server():
    with Server((HOST, 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(server):
    with Proxy(server.server_address[1]) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy):
    opened = []

    def connect():
        opened.append(socket.create_connection((HOST, proxy.port), timeout=20))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def ask(connection, said=b"hello"):
    connection.sendall(said)
    return receive(connection, len(said))


def receive(connection, size):
    heard = b""
    while len(heard) < size and (piece := connection.recv(65_536)):
        heard += piece
    return heard


def ends(connection):
    """Everything that still comes, then the end."""
    heard = b""
    try:
        while piece := connection.recv(65_536):
            heard += piece
    except ConnectionResetError:
        pass
    return heard


def test_it_passes_on(proxy, connect):
    one, two = connect(), connect()
    assert ask(one) == b"hello"
    sender = threading.Thread(target=two.sendall, args=(b"x" * 3_000_000,))
    sender.start()
    assert receive(two, 3_000_000) == b"x" * 3_000_000
    sender.join()
    until(lambda: proxy.connections == 2)
    one.shutdown(socket.SHUT_WR)
    assert one.recv(10) == b""
    until(lambda: proxy.connections == 1)


def test_a_server_that_is_not_there():
    with socket.socket() as held:
        held.bind((HOST, 0))
        with Proxy(held.getsockname()[1]) as proxy, socket.create_connection((HOST, proxy.port), 20) as connection:
            assert ends(connection) == b""


def test_a_delay_each_way(proxy, connect):
    connection = connect()
    ask(connection)
    proxy.delay(0.1)
    start = time.monotonic()
    for part in (b"a", b"b", b"c"):
        connection.sendall(part)
    assert receive(connection, 3) == b"abc"
    assert time.monotonic() - start >= 0.2
    proxy.heal()
    assert ask(connection) == b"hello"


def test_a_cut_now(proxy, connect):
    one, two = connect(), connect()
    assert ask(one) == ask(two) == b"hello"
    proxy.cut()
    assert ends(one) == ends(two) == b""
    assert ask(connect()) == b"hello"
    assert proxy.cuts == 1


def test_a_cut_in_the_middle_of_what_is_said(server, proxy, connect):
    one, two = connect(), connect()
    assert ask(one) == ask(two) == b"hello"
    proxy.cut(after=7)
    assert ask(one, b"12345") == b"12345"
    one.sendall(b"6789")
    ends(one)
    ends(two)
    until(lambda: server.heard.endswith(b"1234567"))
    assert ask(connect()) == b"hello", "once"
    assert b"8" not in server.heard


def test_a_cut_in_the_middle_of_an_answer(server, proxy, connect):
    connection = connect()
    proxy.cut(after=3, way="down")
    connection.sendall(b"hello")
    assert ends(connection) in {b"hel", b""}, "the reset may overtake it"
    assert server.heard == b"hello", "it was carried out"


def test_a_black_hole_swallows(server, proxy, connect):
    connection = connect()
    ask(connection)
    proxy.blackhole()
    late = connect()
    for silent in (connection, late):
        silent.sendall(b"anybody?")
        silent.settimeout(0.1)
        with pytest.raises(TimeoutError):
            silent.recv(10)
        silent.settimeout(20)
    proxy.heal()
    assert ends(connection) == ends(late) == b"", "bytes are missing: it cannot go on"
    assert ask(connect()) == b"hello"
    assert server.heard == b"hellohello"


def test_what_is_held_back_comes_late(proxy, connect):
    connection = connect()
    ask(connection)
    proxy.stall()
    connection.sendall(b"anybody?")
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(10)
    connection.settimeout(20)
    proxy.heal()
    assert receive(connection, 8) == b"anybody?"


def test_what_was_held_back_comes_though_the_client_has_gone(server, proxy, connect):
    connection = connect()
    ask(connection)
    proxy.stall()
    connection.sendall(b" late")
    connection.close()
    proxy.heal()
    until(lambda: server.heard == b"hello late")


def test_it_refuses_and_listens_again_on_the_same_port(proxy, connect):
    connection = connect()
    ask(connection)
    port = proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    assert ask(connection) == b"hello", "who is there stays"
    proxy.heal()
    assert proxy.port == port
    assert ask(connect()) == b"hello"


def test_the_url_by_way_of_it(proxy):
    target = proxy._target
    assert proxy.through(f"x://u:p@{HOST}:{target}/d?a=1") == f"x://u:p@{HOST}:{proxy.port}/d?a=1"
