"""What the tests of the PostgreSQL driver share."""

import asyncio
import dataclasses

from agentstore.drivers.postgresql import PostgreSQLBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL
from servers.postgresql import execute

__all__ = ["execute", "make", "turn", "until", "value", "within", "words"]

value = execute  # it gives what a SELECT finds as one text


def make(url, **options):
    return PostgreSQLBackend(StoreURL.parse(url), PoolOptions(**options))


def turn(session_id, text="hello", **fields):
    return Append(session_id, (Message("user", text, **fields),))


def within(url, **changes):
    """The URL with other parts; options are added."""
    parts = StoreURL.parse(url)
    options = {**parts.options, **changes.pop("options", {})}
    return dataclasses.replace(parts, options=options, **changes).secret


def words(outcome):
    """What the messages of an outcome say; an error as its class."""
    return type(outcome) if isinstance(outcome, Exception) else [message.content for message in outcome]


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)
