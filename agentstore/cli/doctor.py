"""`agentstore doctor`: whether a store is fit for use, and what to do where it is not."""

from __future__ import annotations

import contextlib
import secrets
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from agentstore.drivers import registry
from agentstore.errors import AgentstoreError, ConflictError, UnavailableError
from agentstore.findings import Finding
from agentstore.options import PoolOptions
from agentstore.protocol import Append, DeleteKeys, GetItems, Read, SetItems
from agentstore.records import Message
from agentstore.sync import run_blocking

from .hints import chosen
from .output import complain, print_findings, print_json, say

if TYPE_CHECKING:
    from agentstore.protocol import Backend, Outcome
    from agentstore.stats import PoolStats
    from agentstore.url import StoreURL

T = TypeVar("T")

_POOL = PoolOptions(connect_timeout=4.0)  # somebody sits there and waits
_WHO = "agentstore doctor"
_NAMES = 1000  # few enough that what a deleted session leaves behind does not pile up, however often this is run
_TRIES = 10
_TTL = timedelta(minutes=1)  # for what an interrupted doctor leaves
_SLOW = 1.0


def run(database_url: str | None, *, as_json: bool) -> None:
    """Examine a store and print what was found; exit code 1 if it is unfit or cannot be reached."""
    url = chosen(database_url)
    backend = registry.load(url, _POOL)  # an error here is one of usage
    try:
        check_there(url)
        findings: list[Finding] = run_blocking(lambda: examine(backend))
    except AgentstoreError as error:
        complain(error)
        raise typer.Exit(1) from error
    unfit = any(finding.level == "unfit" for finding in findings)
    if as_json:
        print_json({"url": str(url), "fit": not unfit, "findings": [finding.to_dict() for finding in findings]})
    else:
        say(str(url))
        print_findings(findings)
        warnings = sum(finding.level == "warning" for finding in findings)
        told = "no warnings" if not warnings else "1 warning" if warnings == 1 else f"{warnings} warnings"
        say(f"It is {'unfit for use' if unfit else 'fit for use'}: {told}.")
    if unfit:
        raise typer.Exit(1)


def check_there(url: StoreURL) -> None:
    """Let pass unless the URL names a file that could be made, but is not there: looking must not make it.

    Raises:
        UnavailableError: There is no such file yet.
    """
    path = absent(url)
    if path is not None:
        raise UnavailableError(f"{path} does not exist yet", hint="The first use of db(...) on this URL makes it")


def absent(url: StoreURL) -> Path | None:
    """The file or folder of a store in files, where there is none and opening it would make one."""
    if url.scheme.partition("+")[0] not in {"sqlite", "json", "file"} or url.path == "/:memory:":
        return None
    name = url.file_path()
    path = None if name is None else Path(name)
    return path if path is not None and not path.exists() and path.parent.is_dir() else None


async def examine(backend: Backend) -> list[Finding]:
    """What the backend says of itself, how long a round trip takes, and whether the rights suffice; closes it."""
    try:
        await backend.aopen()
        findings = [*await backend.examine(), await _round_trip(backend), await _trial(backend)]
        if any(finding.subject == "pool" for finding in findings):
            return findings
        return findings + [_pool(stats) for stats in backend.pools()]
    finally:
        await backend.aclose()


def _pool(stats: PoolStats) -> Finding:
    return Finding("pool", f"{stats.size} of at most {_POOL.size} connections open, {stats.waits} waits for one")


async def _round_trip(backend: Backend) -> Finding:
    start = time.perf_counter()
    await backend.ping()
    seconds = time.perf_counter() - start
    value = f"{seconds * 1000:.1f} ms"
    if seconds < _SLOW:
        return Finding("round trip", value)
    return Finding("round trip", value, "warning", "Is the server overloaded, or far away?")


async def _trial(backend: Backend) -> Finding:
    """Write, read and delete a message and a key under a name that nobody uses."""
    start = time.perf_counter()
    try:
        for _ in range(_TRIES):
            name = f"agentstore-doctor-{secrets.randbelow(_NAMES)}"
            with contextlib.suppress(ConflictError):  # another doctor is at work there, or was interrupted
                await _try_conversations(backend, name)
                await _try_state(backend, name)
                took = (time.perf_counter() - start) * 1000
                return Finding("rights", f"a message and a key written, read and deleted, in {took:.1f} ms")
    except AgentstoreError as error:
        return Finding("rights", str(error.args[0]), "unfit", error.hint or "Let this user read, write and delete")
    return Finding("rights", "not tried: every name was taken", "warning", "Try again in a minute")


async def _try_conversations(backend: Backend, name: str) -> None:
    message = Message("user", "Is anybody there?")
    append = Append(name, (message,), user_id=_WHO, agent=_WHO, ttl=_TTL, expected_seq=0)
    _one(await backend.append([append]))
    try:
        found = [stored.id for stored in _one(await backend.read([Read(name, user_id=_WHO)]))]
    finally:
        await backend.delete(name, user_id=_WHO)
    if found != [message.id]:
        raise UnavailableError(f"session {name!r} does not hold what was just stored in it")


async def _try_state(backend: Backend, name: str) -> None:
    value = secrets.token_hex()
    _one(await backend.write_items([SetItems(name, {"key": value}, _TTL, if_version=0)]))
    try:
        found = _one(await backend.get_items([GetItems(name, ("key",))]))
    finally:
        _one(await backend.write_items([DeleteKeys(name, ("key",))]))
    if {key: item.value for key, item in found.items()} != {"key": value}:
        raise UnavailableError(f"namespace {name!r} does not hold what was just stored in it")


def _one(outcomes: list[Outcome[T]]) -> T:
    """The outcome of the one operation, raised if it is an error."""
    (outcome,) = outcomes
    if isinstance(outcome, AgentstoreError):
        raise outcome
    return outcome
