"""What the tests of the ClickHouse driver share."""

from contextlib import asynccontextmanager

from agentstore.drivers.clickhouse import ClickHouseBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL


def make(url, **options):
    return ClickHouseBackend(StoreURL.parse(url), PoolOptions(**options))


@asynccontextmanager
async def opened(url, **options):
    backend = make(url, **options)
    await backend.aopen()
    try:
        yield backend
    finally:
        await backend.aclose()


def turn(session_id, text="hello", **fields):
    return Append(session_id, (Message("user", text, **fields),))


def chain(error):
    """All texts that a printed traceback would show."""
    found = []
    while error is not None:
        found += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(found)
