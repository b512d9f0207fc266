"""The protocol, packet by packet."""

import asyncio
import struct

import pytest
from mysql_kit import execute, make, turn, words
from pymysql.err import OperationalError, ProgrammingError

from agentstore.drivers.mysql.wire import Damaged, answered, converse
from agentstore.errors import CorruptRecordError, UnavailableError
from agentstore.protocol import Read, Scan

pytestmark = pytest.mark.anyio

LONGEST = 2**24 - 1


class Scripted:
    """A connection whose server says what the test says."""

    def __init__(self, data, piece):
        self._reader = asyncio.StreamReader()
        self.closed = False
        self._data, self._piece = data, piece
        self._reader.read = self._read
        self._writer = self
        self.sent = []
        self.written = b""

    async def _execute_command(self, command, statements):
        self.sent.append(statements)

    def write(self, data):
        self.written += data

    async def _read(self, size):
        piece, self._data = self._data[: self._piece], self._data[self._piece :]
        return piece

    def close(self):
        self.closed = True


def packets(*payloads, number=1):
    """As they come over the wire; payloads of the greatest length go on in the next."""
    found = b""
    for payload in payloads:
        whole = payload
        while True:
            part, whole = whole[:LONGEST], whole[LONGEST:]
            found += struct.pack("<I", len(part))[:3] + bytes([number % 256]) + part
            number += 1
            if len(part) < LONGEST:
                break
    return found


def column(kind):
    return b"\x03def" + b"\x00" * 5 + b"\x0c\x3f\x00\xff\x00\x00\x00" + bytes([kind]) + b"\x00" * 5


def eof(status=0x0200):
    return b"\xfe\x00\x00" + struct.pack("<H", status)


def text(value):
    prefix = bytes([len(value)]) if len(value) < 251 else b"\xfd" + struct.pack("<I", len(value))[:3]
    return (b"\xfe" + struct.pack("<Q", len(value)) if len(value) > LONGEST else prefix) + value


def ok(affected=b"\x00", status=0x0200):
    return b"\x00" + affected + b"\x00" + struct.pack("<HH", status, 0)


ROWS = (b"\x02", column(253), column(8), eof(), text(b"a") + text(b"-5"), b"\xfb" + text(b"7"), eof())


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 17, 10**9])
async def test_results_in_pieces_of_any_size(piece):
    data = packets(ok(b"\xfc\x10\x27", 0x0208), *ROWS[:-1], eof(0x0208), ok())
    assert await converse(Scripted(data, piece), b"x", 5) == [10_000, [("a", -5), (None, 7)], 0]


@pytest.mark.parametrize("length", [250, 251, 65_536, LONGEST - 10, LONGEST - 8, LONGEST, LONGEST + 1, 2 * LONGEST])
async def test_rows_of_any_length(length):
    data = packets(b"\x01", column(252), eof(), text(b"x" * length), text(b"y"), eof())
    ((long,), short) = (await converse(Scripted(data, 2**16), b"x", 30))[0]
    assert (len(long), short) == (length, ("y",))


async def test_more_packets_than_numbers():
    data = packets(b"\x01", column(3), eof(), *[text(b"1")] * 600, eof())
    assert await converse(Scripted(data, 1000), b"x", 5) == [[(1,)] * 600]


async def test_a_text_that_is_no_utf8():
    data = packets(b"\x02", column(253), column(8), eof(), text(b"\xff") + text(b"1"), eof())
    ((row,),) = await converse(Scripted(data, 10), b"x", 5)
    assert (type(row), row) == (Damaged, ("\\xff", 1))


async def test_what_comes_behind_is_read_also_after_an_error():
    error = b"\xff" + struct.pack("<H", 1064) + b"#42000no"
    connection = Scripted(packets(ok(status=0x0208), error) + packets(ok(status=0x0201)), 7)
    with pytest.raises(ProgrammingError) as caught:
        await converse(connection, b"a;b", 5, b"ROLLBACK")
    assert (answered(caught.value), connection.sent) == (1, [])
    assert connection.written == b"\x04\x00\x00\x00\x03a;b" + b"\x09\x00\x00\x00\x03ROLLBACK"
    assert (connection.server_status, connection.closed) == (0x0201, False)


async def test_an_answer_that_comes_too_late_ends_the_connection():
    """Else the next statement would take the answer of this one."""
    error = b"\xff" + struct.pack("<H", 1048) + b"#23000no"
    connection = Scripted(packets(error) + packets(ok()), 100)
    in_time, patience = connection._read, asyncio.Event()

    async def late(size):
        if not patience.is_set():
            patience.set()
            await asyncio.Event().wait()
        return await in_time(size)

    connection._reader.read = late
    with pytest.raises(TimeoutError):
        await converse(connection, b"a", 0.01, b"ROLLBACK")
    assert connection.closed


@pytest.mark.parametrize("data", [b"", packets(ok())[:-3], packets(*ROWS)[:-1], packets(ok(), number=0)])
async def test_a_connection_that_ends_early(data):
    connection = Scripted(data, 9)
    with pytest.raises(OperationalError) as caught:
        await converse(connection, b"x", 5)
    assert (caught.value.args[0], connection.closed) == (2013, True)


async def test_damaged_rows_are_told_by_name(url, backend):
    await backend.append([turn("good"), turn("bad")])
    execute(
        url,
        "UPDATE agentstore_messages SET role = x'ff' WHERE session_id = 'bad'",
        "INSERT INTO agentstore_state VALUES ('n', x'6bff', '1', 1, NULL)",
    )
    assert [words(found) for found in await backend.read([Read("good"), Read("bad")])] == [
        ["hello"],
        CorruptRecordError,
    ]
    with pytest.raises(CorruptRecordError, match="UTF-8"):
        await backend.scan(Scan("n"))


async def test_a_session_whose_mode_was_changed_takes_no_statement(url):
    backend = make(url, size=1)
    await backend.aopen()
    async with backend._here.connection() as proxy:
        await converse(proxy.driver_connection, b"SET SESSION sql_mode = ''", 5)
    with pytest.raises(UnavailableError, match="sql_mode"):
        await backend.append([turn("s", "\\'; DROP TABLE agentstore_messages; -- ")])
    await backend.append([turn("s", "\\'; DROP TABLE agentstore_messages; -- ")])  # on another connection
    await backend.aclose()


def test_a_part_of_a_damaged_row_is_damaged():
    assert type(Damaged((1, "\\xff", 2))[1:]) is Damaged
    assert Damaged((1, 2))[0] == 1


async def test_an_empty_batch(backend):
    assert [await backend.append([]), await backend.heads([]), await backend.read([])] == [[], [], []]
