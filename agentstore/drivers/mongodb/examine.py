"""What an operator should know of the server: for ``agentstore doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pymongo.errors import OperationFailure

from agentstore.findings import Finding
from agentstore.records import utcnow

from .clock import server_time
from .schema import MESSAGES, SESSIONS, STATE, found_version

if TYPE_CHECKING:
    from agentstore.options import PoolOptions

    from .client import Collection, Document, Tables

_OLDEST = (6, 0)
_SKEW = 1.0  # seconds


async def examine(tables: Tables, pool: PoolOptions) -> list[Finding]:
    """Server, topology, write concern, journal, schema, clock, connections."""
    hello = await tables.client.admin.command("hello")
    build = await tables.client.admin.command("buildInfo")
    return [
        _server(build),
        _topology(hello),
        _write_concern(tables, hello),
        await _journal(tables),
        *await _schema(tables),
        await _clock(tables),
        *await _connections(tables, pool),
    ]


def _server(build: Document) -> Finding:
    version = str(build.get("version", "?"))
    if "gitVersion" not in build:  # which every mongod and mongos tells
        name = build.get("process", "something else that speaks its protocol")
        return Finding(
            "server",
            f"no MongoDB, but {name}, like {version}",
            "warning",
            "agentstore is written for MongoDB's own server: nobody knows what this one does when it is killed",
        )
    old = tuple(int(part) for part in version.split(".")[:2]) < _OLDEST
    return Finding("server", f"MongoDB {version}", *(("warning", "Upgrade to 6.0 or later") if old else ("ok",)))


def _topology(hello: Document) -> Finding:
    if hello.get("msg") == "isdbgrid":
        return Finding("topology", "sharded cluster")
    if "setName" in hello:
        return Finding("topology", f"replica set {hello['setName']} with {len(hello.get('hosts', ()))} members")
    return Finding(
        "topology",
        "one server alone",
        "warning",
        "What is committed is on one disk. A replica set of three survives the loss of one",
    )


def _write_concern(tables: Tables, hello: Document) -> Finding:
    concern = tables.client.write_concern.document
    value = f"w={concern.get('w')}, journal={concern.get('j')}"
    if concern.get("w") != "majority" and "setName" in hello:
        return Finding(
            "write concern", value, "warning", "Leave w out of the URL: a failover may lose what is committed"
        )
    if concern.get("j") is False:
        return Finding("write concern", value, "warning", "Leave journal out of the URL: a crash may lose commits")
    return Finding("write concern", value)


async def _journal(tables: Tables) -> Finding:
    try:
        status = await tables.client.admin.command("serverStatus")
    except OperationFailure as error:
        return Finding("journal", f"unknown: {error.details and error.details.get('codeName')}")
    engine = status.get("storageEngine", {}).get("name")
    if engine == "inMemory":
        return Finding("journal", "none: the storage engine is inMemory", "unfit", "Everything is gone with the server")
    if engine is None:
        return Finding("journal", "unknown: the server does not tell its storage engine")
    return Finding("journal", f"{engine}, synced before a commit returns")


async def _schema(tables: Tables) -> list[Finding]:
    findings = [Finding("schema", f"version {await found_version(tables)} in database {tables.database.name}")]
    for collection, wanted in ((tables.sessions, SESSIONS), (tables.messages, MESSAGES), (tables.state, STATE)):
        there = {tuple(index["key"]) for index in await collection.list_indexes().to_list(None)}  # the fields' names
        missing = [index.document["name"] for index in wanted if tuple(index.document["key"]) not in there]
        if missing:
            findings.append(
                Finding(
                    "indexes",
                    f"{collection.name} lacks {', '.join(missing)}",
                    "warning",
                    f"Delete the document schema of {tables.meta.name}: the next start makes them again",
                )
            )
    findings += [finding for finding in [await _collation(tables.sessions), await _collation(tables.state)] if finding]
    return findings


async def _collation(collection: Collection) -> Finding | None:
    options = await collection.options()
    if "collation" not in options:
        return None
    return Finding(
        "collation",
        f"{collection.name} was made with the collation {options['collation'].get('locale')}",
        "unfit",
        "It takes different ids for equal: let agentstore make its collections itself",
    )


async def _clock(tables: Tables) -> Finding:
    before = utcnow()
    server = await server_time(tables)
    skew = (server - before - (utcnow() - before) / 2).total_seconds()
    if abs(skew) > _SKEW:
        return Finding("clock", f"the server is {skew:+.1f} s off this machine", "warning", "Let both use NTP")
    return Finding("clock", "the server and this machine agree within a second")


async def _connections(tables: Tables, pool: PoolOptions) -> list[Finding]:
    try:
        status = await tables.client.admin.command("serverStatus")
    except OperationFailure:
        return []
    connections = status.get("connections", {})
    if "available" not in connections:
        return []
    value = f"{connections['current']} in use, {connections['available']} more allowed; {pool.size} for each pool here"
    if connections["available"] < pool.size:
        return [Finding("connections", value, "warning", "Lower PoolOptions.size, or raise maxIncomingConnections")]
    return [Finding("connections", value)]
