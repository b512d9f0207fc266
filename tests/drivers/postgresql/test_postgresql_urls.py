"""What a URL may say, without any server."""

import pytest

from agentstore import db
from agentstore.drivers.postgresql.target import Target
from agentstore.errors import ConfigurationError
from agentstore.url import StoreURL


def target(url):
    return Target.of(StoreURL.parse(url))


def test_what_a_url_says():
    found = target("postgresql://me:p%40ss@h1,h2:5433/my%20db?schema=a%22b&application_name=x")
    assert found.hosts == (("h1", None), ("h2", 5433))
    assert (found.wanted, found.schema, found.prepared, found.application_name) == ("read-write", 'a"b', "auto", "x")
    arguments = found.arguments()
    assert (arguments["user"], arguments["password"], arguments["database"]) == ("me", "p@ss", "my db")
    assert arguments["dsn"] is None


def test_what_it_leaves_open(monkeypatch):
    for name in ("PGUSER", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)
    found = target("postgres:///")
    assert (found.hosts, found.wanted, found.schema) == (((None, None),), "any", "public")
    assert found.arguments()["password"] == "", "None would make asyncpg read a password file"
    assert found.arguments()["user"]
    monkeypatch.setenv("PGUSER", "somebody")
    monkeypatch.setenv("PGPASSWORD", "secret")
    assert (found.arguments()["user"], found.arguments()["password"]) == ("somebody", "secret")


def test_a_socket():
    assert target("postgresql:///d?host=/run/postgresql&port=5433").hosts == (("/run/postgresql", 5433),)
    assert target("postgresql://%2Frun%2Fpostgresql/d").hosts == (("/run/postgresql", None),)


def test_tls(tmp_path):
    authority = tmp_path / "a b.pem"
    authority.touch()
    found = target(f"postgresql://h/d?sslmode=verify-full&sslrootcert={authority}")
    assert found.arguments()["dsn"].startswith("postgresql://?sslmode=verify-full&sslrootcert=%2F")
    authority.unlink()
    with pytest.raises(ConfigurationError, match="sslrootcert is not there"):
        found.arguments()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h/d?sslmode=sometimes", "accepted: disable, allow, prefer"),
        ("postgresql://h/d?target_session_attrs=master", "accepted: any, read-write"),
        ("postgresql://h/d?prepared=maybe", "accepted: auto, yes, no"),
        ("postgresql://h/d?sslkey=k", "without sslcert"),
        ("postgresql://h/d?host=other", "names a host twice"),
        ("postgresql:///d?port=x", "no number"),
        ("postgresql:///d?port=65536", "no number"),
        ("postgresql://h:0/d", "the port 0"),
        ("postgresql:///d?host=h1,h2", "h1:5432,h2:5432"),
        ("postgresql://h/d?schema=", "1 to 63 bytes"),
        ("postgresql://h/d?schema=" + "%C3%A9" * 32, "1 to 63 bytes"),
        ("postgresql://h/d%00", "NUL"),
        ("postgresql://h/d?schema=%00", "NUL"),
        ("postgresql://u:%00secret@h/d", "NUL"),
        ("postgresql://u:secret%ff@h/d", "UTF-8"),
        ("postgresql://h/d?search_path=x", "unknown option"),
    ],
)
def test_what_cannot_be_right(url, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        db(url)
    assert "secret" not in str(caught.value)
