"""What an operator is told."""

import time

import pytest
from postgresql_kit import execute, make

from agentstore.drivers.postgresql import examining
from agentstore.drivers.sql.upgrade import VERSION

pytestmark = pytest.mark.anyio


async def look(url, **options):
    backend = make(url, **options)
    await backend.aopen()
    found = {finding.subject: finding for finding in await backend.examine()}
    await backend.aclose()
    return found


async def test_a_server_as_the_tests_have_it(url):
    found = await look(url)
    assert found["server"].value.startswith("PostgreSQL ")
    assert found["schema"].value == f"version {VERSION} in public"
    assert (found["role"].value, found["encoding"].value, found["pooler"].value) == ("primary", "UTF8", "none")
    assert found["synchronous_commit"].level == found["clock"].level == found["connections"].level == "ok"
    assert found["TLS"].value.startswith("TLSv1.")
    assert all(finding.advice for finding in found.values() if finding.level != "ok")


async def test_what_weakens_a_commit(url):
    execute(url, f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
    found = await look(url)
    assert (found["synchronous_commit"].level, found["synchronous_commit"].value) == ("warning", "off")
    execute(url, "ALTER TABLE agentstore_messages SET UNLOGGED")
    assert (await look(url))["unlogged tables"].value == "agentstore_messages"


async def test_more_connections_than_the_server_allows(url):
    found = await look(url, size=1000)
    assert found["connections"].level == "warning"


async def test_a_clock_that_is_wrong(url, monkeypatch):
    monkeypatch.setattr(examining.time, "time", lambda now=time.time: now() - 3600)
    found = await look(url)
    assert found["clock"].level == "warning"
    assert found["clock"].value.startswith("+3")
