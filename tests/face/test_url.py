"""URLs: parsed whole, printed without secrets."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentstore import ConfigurationError, db
from agentstore.url import StoreURL


def test_every_part_is_decoded():
    url = StoreURL.parse(
        "postgresql+asyncpg://us%40er:p%40ss%2F%3A@h1:5433,[::1]:5434,h3/my%20db?sslmode=require&a=b%26c"
    )
    assert url.scheme == "postgresql+asyncpg"
    assert (url.username, url.password) == ("us@er", "p@ss/:")
    assert url.hosts == (("h1", 5433), ("::1", 5434), ("h3", None))
    assert url.path == "/my db"
    assert url.options == {"sslmode": "require", "a": "b&c"}


@pytest.mark.parametrize("text", ["redis://u:s3cret@h/0", "mysql://:s3cret@h/d?ssl_password=s3cret", "memory:"])
def test_no_password_is_printed(text):
    url = StoreURL.parse(text)
    assert "s3cret" not in f"{url} {url!r}"


def test_options_are_shown_by_name_alone():
    url = StoreURL.parse("mysql://h/d?pwd=s3cret&x=s3cret")
    assert str(url) == "mysql://h/d?pwd=***&x=***"
    assert url.secret == "mysql://h/d?pwd=s3cret&x=s3cret"


def test_a_password_of_stars_is_one():
    url = StoreURL.parse("mysql://u:***@h/d?x=1")
    assert StoreURL.parse(url.secret) == url


def test_a_character_that_looks_like_several_stays_one():
    url = StoreURL.parse("postgresql://u:s3cret\u2100@h/db")  # which normalises to a/c
    assert (url.password, url.hosts) == ("s3cret\u2100", (("h", None),))


def test_the_secret_form_parses_back():
    url = StoreURL.parse("mysql://u:p%40ss@h:1/d?x=1")
    assert StoreURL.parse(url.secret) == url


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///rel.db", str(Path("rel.db").absolute())),
        ("sqlite:////abs/x.db", "/abs/x.db"),
        ("json:///a/b", str(Path("a/b").absolute())),
        ("file:///abs/b", "/abs/b"),
        ("file:////abs/b", "/abs/b"),
        ("json:///with%20space", str(Path("with space").absolute())),
        ("json:///not%20utf-8%20%ff", str(Path("not utf-8 \udcff").absolute())),
        ("sqlite:///a%23b%0A%3F%2520", str(Path("a#b\n?%20").absolute())),
        ("sqlite://", None),
        ("sqlite:", None),
    ],
)
def test_file_paths(text, path):
    assert StoreURL.parse(text).file_path() == path


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("conversations.db", "no scheme"),
        ("oracle://h/d", "no driver knows the URL scheme 'oracle'; accepted: clickhouse, clickhouses, file, json, "),
        ("sqlite:///x.db?mode=ro", "unknown option 'mode'; accepted: none"),
        ("sqlite:///x.db?a=1&a=2", "gives the option 'a' twice"),
        ("sqlite://host/x.db", "names a host"),
        ("sqlite:///x.db?pwd=s3cret", "unknown option 'pwd'"),
        ("postgresql://u:s3cret@[h/db", "cannot be read"),
        ("sqlite:///a#1.db", "%23"),
        ("sqlite:///a.db#", "%23"),
        ("sqlite:///a\nb.db", "control characters"),
        ("sqlite:///a.db\t", "control characters"),
        (" sqlite:///a.db", "begins with a space"),
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite:/tmp/x.db", "no // after sqlite:. Write sqlite:///name"),
        ("sqlite:x.db", "no // after sqlite:"),
        ("json:/tmp/x", "no // after json:"),
        ("file:/tmp/x", "no // after file:"),
        ("json://", "folder"),
        ("memory://host", "names a place"),
        ("postgresql://u:s3cret@h:port/d", "a port that is no number"),
        ("postgresql://u:s3cret@h:²/d", "a port that is no number"),
        ("postgresql://u:s3cret@h:" + "1" * 5000, "a port that is no number"),
        ("postgresql://u:s3cret@localhost/mydb?colour=red", "unknown option 'colour'"),
    ],
)
def test_a_wrong_url_is_refused_at_once(text, told):
    with pytest.raises(ConfigurationError) as caught:
        db(text)
    assert told in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_missing_driver_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="needs the package aiosqlite"):
        db("sqlite:///x.db")


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("postgresql://u:s3cret@h/d", "postgres"),
        ("mariadb://u:s3cret@h/d", "mysql"),
        ("rediss://u:s3cret@h", "redis"),
        ("mongodb+srv://u:s3cret@h/d", "mongodb"),
        ("clickhouses://u:s3cret@h/d", "clickhouse"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, url, extra):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError) as caught:
        db(url)
    assert f"pip install 'agentstore[{extra}]'" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_user_and_password_survive(user, password):
    url = StoreURL("redis", user, password, (("h", 1),), "/0")
    try:
        text = url.secret
    except UnicodeEncodeError:  # a lone surrogate fits in no URL
        return
    parsed = StoreURL.parse(text)
    assert (parsed.username, parsed.password) == (user, password)
