"""What a URL says, and what it may not."""

import ssl

import pytest
from redis_kit import make

from agentstore import db, errors
from agentstore.drivers.redis.link import Link, tls_context
from agentstore.drivers.redis.place import TLS, Address, parse
from agentstore.url import StoreURL


def place(text):
    return parse(StoreURL.parse(text))


def test_the_parts_are_decoded():
    found = place("redis://al%40ice:p%40ss%2F@h:7000/3?prefix=app")
    assert found.addresses == (Address("h", 7000),)
    assert (found.login.username, found.login.password) == ("al@ice", "p@ss/")
    assert (found.database, found.prefix, found.tls, found.mode) == (3, "app", None, "single")
    assert "p@ss" not in repr(found)


def test_what_is_left_out():
    found = place("redis://")
    assert found.addresses == (Address("localhost", 6379),)
    assert (found.login.username, found.login.password, found.database) == (None, None, 0)
    assert found.prefix == "agentstore"


def test_a_password_without_a_user():
    assert place("redis://:p%40ss@h").login.username is None


def test_several_servers():
    cluster = place("redis+cluster://h1:1,[::1]:2,h3")
    assert cluster.addresses == (Address("h1", 1), Address("::1", 2), Address("h3", 6379))
    found = place("redis+sentinel://:x@s1,s2:2/main/4?sentinel_password=q&sentinel_username=w")
    assert found.addresses == (Address("s1", 26379), Address("s2", 2))
    assert (found.service, found.database, found.sentinel_login.password) == ("main", 4, "q")


def test_a_socket():
    found = place("redis+unix://:x@/run/redis.sock?db=2")
    assert found.addresses == (Address("/run/redis.sock", 0),)
    assert (found.database, found.login.password) == (2, "x")


@pytest.mark.parametrize(
    "text",
    ["rediss://h", "redis://h?tls=true", "redis+cluster://h?tls=true", "redis+sentinel://h/m?tls=true"],
)
def test_tls_is_verified_unless_told_otherwise(text):
    assert place(text).tls == TLS(verify=True)
    mark = "&" if "?" in text else "?"
    assert place(f"{text}{mark}tls_verify=false&tls_ca=/c&tls_cert=/d&tls_key=/e").tls == TLS("/c", "/d", "/e", False)  # noqa: FBT003


def test_tls_means_tls(tmp_path):
    context = tls_context(TLS()).get()
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
    unverified = tls_context(TLS(verify=False)).get()
    assert (unverified.check_hostname, unverified.verify_mode) == (False, ssl.CERT_NONE)
    found = place("rediss://:p%40ss@h")
    link = Link(found.addresses[0], found.login, 0, tls_context(found.tls))
    assert link._connection._connection_arguments()["ssl"].verify_mode == ssl.CERT_REQUIRED
    assert link._connection.password == "p@ss"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("redis://a,b", "several servers"),
        ("redis://h/x", "numbers"),
        ("redis://h/-1", "numbers"),
        ("redis://h/0/1", "numbers"),
        ("redis+cluster://h/1", "only 0"),
        ("redis+sentinel://h", "service"),
        ("redis+unix://h/x", "host"),
        ("redis+unix:///", "socket"),
        ("redis+unix:///s?tls=true", "unix socket"),
        ("redis://h?db=1", "path"),
        ("rediss://h?tls=false", "rediss"),
        ("redis://h?tls=yes", "neither true nor false"),
        ("redis://h?tls_ca=/c", "does not ask for TLS"),
        ("redis://h?sentinel_password=x", "redis\\+sentinel"),
        ("redis://h?prefix=", "prefix"),
        ("redis://h?prefix=a%7Bb", "prefix"),
        ("redis://h?prefix=a%20b", "prefix"),
        ("redis://h?ssl=true", "unknown option"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_at_once(text, says):
    with pytest.raises(errors.ConfigurationError, match=says):
        db(text)


def test_making_a_backend_does_no_io():
    make("rediss://nowhere.invalid:1?tls_ca=/not/there")
