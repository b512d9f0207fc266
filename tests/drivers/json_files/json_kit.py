"""What the tests of the JSON-files driver share."""

from agentstore.drivers.json import JSONBackend, names
from agentstore.errors import AgentstoreError
from agentstore.options import PoolOptions
from agentstore.protocol import Append, Read
from agentstore.records import Message
from agentstore.url import StoreURL


def backend(folder, **options):
    return JSONBackend(StoreURL.parse(f"json:///{folder}"), PoolOptions(**options))


async def add(store, session_id, *texts, **options):
    [outcome] = await store.append(
        [Append(session_id, tuple(Message("user", text, id=f"id-{text}"[:255]) for text in texts), **options)]
    )
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return outcome


async def texts(store, session_id, **options):
    [outcome] = await store.read([Read(session_id, **options)])
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return [message.content for message in outcome]


def log_of(folder, session_id="s"):
    return folder / "sessions" / names.file_name(session_id)


def remove_index(folder):
    for path in folder.glob("index.db*"):
        path.unlink()
