"""What a URL may say, and how far a server is trusted."""

import pytest
from mysql_kit import execute, make, turn, within, words

import servers
from agentstore import db, errors
from agentstore.drivers.mysql.settings import TLS, settings
from agentstore.protocol import Read
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio


def parsed(text):
    return settings(StoreURL.parse(text))


def test_the_parts_of_a_url():
    found = parsed("mysql://us%40er:p%40ss@h1,h2:3307,[::1]/my%20db?ssl-mode=verify_identity&ssl-ca=/ca.pem")
    assert (found.user, found.password, found.database) == ("us@er", "p@ss", "my db")
    assert found.hosts == (("h1", 3306), ("h2", 3307), ("::1", 3306))
    assert (found.tls, found.ca, found.unix_socket) == (TLS.VERIFY_IDENTITY, "/ca.pem", None)
    assert "p@ss" not in repr(found)
    assert "p@ss" not in found.name


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+aiomysql"])
def test_the_schemes(scheme):
    assert db(f"{scheme}://h/d") is not None
    assert parsed(f"{scheme}://h/d").tls is TLS.PREFERRED


def test_what_stands_for_what_is_left_out():
    assert parsed("mysql:///d").hosts == (("localhost", 3306),)
    assert parsed("mysql:///d?unix_socket=/s").hosts == ()
    assert parsed("mysql://h/d?ssl-ca=/ca.pem").tls is TLS.VERIFY_CA


@pytest.mark.parametrize(
    "text",
    [
        "mysql://h",
        "mysql://h/",
        "mysql://h/d?ssl-mode=MAYBE",
        "mysql://h/d?ssl-key=/k",
        "mysql://h/d?ssl-mode=REQUIRED&ssl-ca=/ca.pem",
        "mysql://h/d?unix_socket=/s",
        "mysql:///d?unix_socket=/s&ssl-mode=REQUIRED",
        "mysql://h/d?get-server-public-key=maybe",
        "mysql://h/d?pipelining=2",
        "mysql://u:p%FF@h/d",
    ],
)
def test_what_cannot_be_right(text):
    with pytest.raises(errors.ConfigurationError) as caught:
        make(text)
    assert "p\udcff" not in str(caught.value)


def test_an_unknown_option():
    with pytest.raises(errors.ConfigurationError, match="ssl-mode"):
        db("mysql://h/d?sslmode=require")


# --- a real server ---


@pytest.fixture(scope="module")
def server():
    with servers.private_server("mysql") as server:
        yield server


@pytest.fixture(scope="module")
def without_tls():
    with servers.private_server("mysql", "--skip-ssl") as server:
        execute_plain(server)
        yield server


def execute_plain(server):
    import pymysql  # noqa: PLC0415

    ((host, port),) = StoreURL.parse(server.url).hosts
    parts = StoreURL.parse(server.url)
    with pymysql.connect(host=host, port=port, user=parts.username, password=parts.password) as connection:
        connection.cursor().execute("CREATE DATABASE plain")


async def cipher(url):
    backend = make(url)
    await backend.aopen()
    await backend.append([turn("s")])
    (finding,) = [f for f in await backend.examine() if f.subject == "TLS"]
    assert words((await backend.read([Read("s")]))[0])[-1] == "hello"
    await backend.aclose()
    return finding.value


@pytest.mark.parametrize("mode", ["PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
async def test_tls(server, mode):
    options = {"ssl-mode": mode} | ({"ssl-ca": str(server.ca)} if mode.startswith("VERIFY") else {})
    assert (await cipher(within(server.url, options=options))).startswith("TLSv1")


async def test_no_tls(server, without_tls):
    assert await cipher(within(server.url, options={"ssl-mode": "DISABLED"})) == "none, on this machine"
    assert await cipher(within(without_tls.url, path="/plain")) == "none, on this machine"


@pytest.mark.parametrize("mode", ["REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY"])
async def test_a_server_that_has_lost_its_tls(without_tls, mode):
    with pytest.raises(errors.ConfigurationError, match="TLS"):
        await make(within(without_tls.url, path="/plain", options={"ssl-mode": mode})).aopen()


async def test_a_server_of_another_name_or_authority(server, tmp_path):
    parts = StoreURL.parse(server.url)
    localhost = within(server.url, hosts=(("localhost", parts.hosts[0][1]),))
    right = {"ssl-ca": str(server.ca), "ssl-mode": "VERIFY_IDENTITY"}
    assert (await cipher(within(localhost, options=right))).startswith("TLSv1")
    another = within(server.url, hosts=(("127.0.0.2", parts.hosts[0][1]),), options=right)
    with pytest.raises((errors.ConfigurationError, errors.UnavailableError)):  # it listens on 127.0.0.1 only
        await make(another).aopen()
    with pytest.raises(errors.ConfigurationError, match="certificate"):
        await make(within(server.url, options={"ssl-mode": "VERIFY_CA"})).aopen()


async def test_a_unix_socket(server):
    path = server.server.folder / "mysql" / "socket"
    url = within(server.url, hosts=(), options={"unix_socket": str(path)})
    assert await cipher(url) == "none, on this machine"


async def test_a_password_of_any_characters(server):
    password = "p@ss'\"\\%ü😀#?/:"
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    execute(server.url, f"CREATE USER any@'%' IDENTIFIED BY '{quoted}'", "GRANT ALL ON *.* TO any@'%'")
    assert (await cipher(within(server.url, username="any", password=password))).startswith("TLSv1")
