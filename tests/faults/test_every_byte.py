"""A talk with a server that ends after any number of bytes: the call is answered whole, or told that it was not."""

import os

import pytest

from agentstore import Message, PoolOptions, UnavailableError, db

from .network import wire

pytestmark = pytest.mark.anyio

STEP = 1 if os.environ.get("FAULTS") == "long" else 29
ENOUGH = 5  # answers in a row that were whole: the cut came behind them


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "redis", "clickhouse"])
async def test_a_talk_that_ends_after_any_number_of_bytes(kind, way):
    with wire(kind) as (direct, proxy):
        options = PoolOptions(size=1, connect_timeout=5, statement_timeout=5)
        async with db(direct) as beside, db(proxy.through(direct), pool=options) as database:
            expected = await beside.append("s", [Message("user", "è" * 50), Message("assistant", "two")])
            whole, refused, size = 0, 0, 0
            while whole < ENOUGH:
                proxy.cut(after=size, way=way)
                try:
                    assert await database.messages("s") == expected
                    whole += 1
                except UnavailableError:
                    whole, refused = 0, refused + 1
                size += STEP
            proxy.heal()
            assert refused > 3
            assert size > 50
            assert await database.messages("s") == expected
