"""What servers and their settings do to texts, ids and long messages."""

import pytest
from mysql_kit import execute, make, turn, within, words

from agentstore.drivers.mysql.literals import literal
from agentstore.errors import MessageTooLargeError
from agentstore.protocol import Append, Change, GetItems, Head, Listing, Read, Scan, SetItems
from agentstore.records import Message

pytestmark = pytest.mark.anyio

MIB = 2**20
TEXTS = [
    "%",
    "%s %(a)s %%",
    "'",
    "\\",
    "\\'",
    "''\\\"",
    '"; DROP TABLE x; --',
    "`",
    "\n\r\t\b\x1a\x00",
    "?",
    ":a",
    "{}",
]


async def test_seventy_thousand_characters(backend):
    text = "ü" * 70_000
    await backend.append([turn("s", text)])
    assert words((await backend.read([Read("s")]))[0]) == [text]


@pytest.mark.parametrize("mode", ["", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES", "ANSI", "TRADITIONAL", "MYSQL40"])
async def test_any_sql_mode_of_the_server(private_server_in, mode):
    url = private_server_in(f"SET GLOBAL sql_mode = '{mode}'")
    backend = make(url)
    await backend.aopen()
    message = Message("user", "".join(TEXTS), metadata={text: text for text in TEXTS}, name="\\'")
    await backend.append([Append("it's \\", (message,), user_id='"u\\"', metadata={"'": "\\"})])
    await backend.write_items([SetItems("n\\'", {'k"\\': TEXTS})])
    ((stored,),) = await backend.read([Read("it's \\", user_id='"u\\"')])
    assert (stored.content, stored.metadata, stored.name) == (message.content, message.metadata, message.name)
    assert (await backend.heads([Head("it's \\")]))[0].metadata == {"'": "\\"}
    assert (await backend.scan(Scan("n\\'")))[0].value == TEXTS
    assert (await backend.update(Change("it's \\", title="'\\'"))).title == "'\\'"
    assert [s.title for s in (await backend.list_sessions(Listing(user_id='"u\\"'))).items] == ["'\\'"]
    await backend.aclose()


@pytest.fixture(scope="module")
def server():
    import servers  # noqa: PLC0415  the package of the tests

    with servers.private_server("mysql", "--character-set-server=latin1") as server:
        yield server


@pytest.fixture
def private_server_in(server):
    """``private_server_in(statement)``: an empty database of a server of the module's own, after that statement."""
    made = []

    def make_one(*statements):
        made.append(f"db{len(made)}")
        execute(server.url, *statements, "CREATE DATABASE " + made[-1])
        return within(server.url, path="/" + made[-1])

    yield make_one
    execute(
        server.url,
        "SET GLOBAL sql_mode = DEFAULT",
        "SET GLOBAL max_allowed_packet = DEFAULT",
        "SET GLOBAL default_storage_engine = DEFAULT",
        *(f"DROP DATABASE {name}" for name in made),
    )


async def test_characters_that_the_database_does_not_know(private_server_in):
    url = private_server_in("SET GLOBAL default_storage_engine = MyISAM")
    backend = make(url)
    await backend.aopen()
    await backend.append([turn("😀", "👩\u200d🚀\U0010ffff")])
    assert words((await backend.read([Read("😀")]))[0]) == ["👩\u200d🚀\U0010ffff"]
    assert (await backend.update(Change("😀", title="😀"))).title == "😀"
    tables = execute(
        url, "SELECT engine, table_collation, row_format FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    assert [row for row in tables if row == ("InnoDB", "utf8mb4_bin", "Dynamic")] == [tables[0]] * 4
    assert {row[0] for row in tables} == {"InnoDB"}
    await backend.aclose()


async def test_ids_that_differ_by_case_accent_or_blanks(backend):
    ids = ["a", "A", "a ", "a  ", " a", "á", "a\u0301", "\uff41", "ß", "ss", "😀", "😁"]
    await backend.append([turn(name, name) for name in ids])
    await backend.write_items([SetItems(name, {other: [name, other] for other in ids}) for name in ids])
    assert [words(found) for found in await backend.read([Read(name) for name in ids])] == [[name] for name in ids]
    found = await backend.get_items([GetItems(name, tuple(ids)) for name in ids])
    assert [{key: item.value for key, item in items.items()} for items in found] == [
        {other: [name, other] for other in ids} for name in ids
    ]
    assert [item.key for item in await backend.scan(Scan("a"))] == sorted(ids)


async def test_three_long_messages_in_one_append(private_server_in):
    url = private_server_in("SET GLOBAL max_allowed_packet = 16777216")
    backend = make(url)
    await backend.aopen()
    texts = ["x" * 8 * MIB, "'" * (8 * MIB), "'\"" * (4 * MIB)]
    await backend.append([turn("s", "before")])
    append = Append("s", tuple(Message("user", text) for text in texts))
    outcomes = await backend.append([append, turn("t")])
    assert [m.seq for m in outcomes[0]] == [2, 3, 4]
    assert words((await backend.read([Read("s")]))[0]) == ["before", *texts]
    again = await backend.append([append])
    assert [m.seq for m in again[0]] == [2, 3, 4]
    await backend.aclose()


async def test_long_values(private_server_in):
    backend = make(private_server_in("SET GLOBAL max_allowed_packet = 16777216"))
    await backend.aopen()
    values = {"a": "\n" * (8 * MIB - 10), "b": b"\xff" * (8 * MIB), "c": ['"' * (8 * MIB - 10)]}
    await backend.write_items([SetItems("n", {key: value}) for key, value in values.items()])
    (found,) = await backend.get_items([GetItems("n", tuple(values))])
    assert {key: item.value for key, item in found.items()} == values
    await backend.aclose()


async def test_a_server_that_takes_no_long_packets(private_server_in):
    backend = make(private_server_in("SET GLOBAL max_allowed_packet = 1048576"))
    await backend.aopen()
    assert [f.level for f in await backend.examine() if f.subject == "max_allowed_packet"] == ["unfit"]
    long = [turn(f"s{n}", str(n) * 400_000) for n in range(5)]  # more than one packet together
    outcomes = await backend.append([*long, turn("much", "x" * 2 * MIB), turn("t")])
    assert [words(outcome) for outcome in outcomes[5:]] == [MessageTooLargeError, ["hello"]]
    assert "SET GLOBAL max_allowed_packet" in str(outcomes[5])
    assert [len(found[0].content) for found in await backend.read([Read(f"s{n}") for n in range(5)])] == [400_000] * 5
    assert await backend.heads([Head("much")]) == [None]
    many = [Read(f"{n}" + "😀" * 250) for n in range(2000)]
    assert await backend.read(many) == [[]] * 2000
    await backend.aclose()


def test_the_quotes_that_need_less_room_are_taken():
    assert literal("it's") == "'it''s'"
    long = "'" * 2 * MIB
    assert literal(long) == f'"{long}"'
    assert literal(long + '"') == f'"{long}"""'
    assert len(literal("'\"" * MIB)) == 3 * MIB + 2


async def test_an_int_beyond_64_bits_as_a_bound(backend):
    await backend.append([turn("s", "one")])
    bounds = [Read("s", before=2**70), Read("s", after=-(2**70)), Read("s", limit=2**70), Read("s", after=2**70)]
    assert [words(found) for found in await backend.read(bounds)] == [["one"], ["one"], ["one"], []]
