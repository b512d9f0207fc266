"""A store that says what happens in which order, for the tests of turns."""

import gc

import pytest

from agentstore import db
from agentstore.locks import locks


@pytest.fixture(autouse=True)
def _no_lock_is_left():
    yield
    gc.collect()
    assert locks._places == {}


@pytest.fixture
def database():
    return db("memory:", "memory:")


@pytest.fixture
def log(database):
    """What happened: ("saved", roles) when an append is durable; models and tools of a test add their own."""
    events = []
    append = database.append

    async def logged(session_id, messages, **options):
        stored = await append(session_id, messages, **options)
        events.append(("saved", [message.role for message in stored]))
        return stored

    database.append = logged
    return events
