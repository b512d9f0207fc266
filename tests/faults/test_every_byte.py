"""A talk with a server that ends after any number of bytes: the call is answered whole, or told that it was not."""

import os
from contextlib import suppress

import pytest

from agentstore import Message, PoolOptions, UnavailableError, db

from .network import wire

pytestmark = pytest.mark.anyio

STEP = 1 if os.environ.get("FAULTS") == "long" else 13
ENOUGH = 3  # talks in a row that were over before the cut


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "redis", "clickhouse"])
async def test_a_talk_that_ends_after_any_number_of_bytes(kind, way):
    with wire(kind) as (direct, proxy):
        options = PoolOptions(size=1, connect_timeout=5, statement_timeout=5)
        async with db(direct) as beside, db(proxy.through(direct), pool=options) as database:
            expected = await beside.append("s", [Message("user", "è" * 50), Message("assistant", "two")])
            uncut, size = 0, 0
            while uncut < ENOUGH:
                before = proxy.cuts
                proxy.cut(after=size, way=way)
                with suppress(UnavailableError):
                    assert await database.messages("s") == expected
                uncut = uncut + 1 if proxy.cuts == before else 0
                size += STEP
            assert proxy.cuts > 3
            proxy.heal()
            assert await database.messages("s") == expected
