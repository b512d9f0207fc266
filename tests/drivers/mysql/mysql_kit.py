"""What the tests of the MySQL driver share."""

import asyncio
import dataclasses
from contextlib import closing

import pymysql

from agentstore.drivers.mysql import MySQLBackend
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.records import Message
from agentstore.url import StoreURL


def make(url, **options):
    return MySQLBackend(StoreURL.parse(url), PoolOptions(**options))


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


def connect(url):
    """A connection of PyMySQL to the URL's database."""
    parts = StoreURL.parse(url)
    ((host, port),) = parts.hosts
    return pymysql.connect(
        host=host,
        port=port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.path[1:],
        charset="utf8mb4",
        autocommit=True,
        ssl={"check_hostname": False},
    )


def execute(url, *statements):
    """Run statements on a connection of their own; the rows of the last."""
    with closing(connect(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall()


def value(url, select):
    """The one text that a SELECT finds."""
    ((found,),) = execute(url, select)
    return found.decode() if isinstance(found, bytes) else found


async def until(condition):
    """Wait until the condition holds."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.15)  # to who asks more often InnoDB shows its transactions as they were
