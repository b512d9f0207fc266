"""Empty stores to measure, on the servers of the environment (``AGENTSTORE_TEST_..._URL``) and on the disk."""

from __future__ import annotations

import os
import sys
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "tests"))

from servers import KINDS  # noqa: E402  it is found there
from servers.base import variable  # noqa: E402  likewise

if TYPE_CHECKING:
    from collections.abc import Iterator

EMBEDDED = ("sqlite", "json")
SERVERS = ("postgresql", "mysql", "redis", "mongodb", "clickhouse")
BACKENDS = (*EMBEDDED, *SERVERS)
RESULTS = HERE / ".results"
_KEYS = "benchmark:*"  # what the peers' scripts put before their keys on Redis


class MissingServerError(Exception):
    """A backend whose server the environment does not name."""


def has(backend: str) -> bool:
    """Whether the backend can be measured."""
    return backend in EMBEDDED or variable(backend) in os.environ


@contextmanager
def empty(backend: str, *, peer: bool = False) -> Iterator[str]:
    """The URL of an empty store, removed at the end; for a peer's script without agentstore's own options.

    Raises:
        MissingServerError: Its server is not there.
    """
    if backend in EMBEDDED:
        RESULTS.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=RESULTS, prefix="store-") as folder:  # a disk, as /tmp may be none
            yield f"sqlite:///{folder}/bench.db" if backend == "sqlite" else f"json:///{folder}/bench"
        return
    if not has(backend):
        raise MissingServerError(f"${variable(backend)} names no server")
    url, name = os.environ[variable(backend)], f"bench_{uuid.uuid4().hex}"
    mine = backend != "redis" or not peer
    try:
        yield KINDS[backend].create(url, name) if mine else url
    finally:
        if mine:
            KINDS[backend].drop(url, name)
        else:
            _forget(url)


@contextmanager
def synced(backend: str) -> Iterator[None]:
    """On Redis: each write is on the disk before it is answered, for as long as this lasts."""
    if backend != "redis" or not has(backend):
        yield
        return
    with redis.Redis.from_url(os.environ[variable(backend)]) as client:
        before = client.config_get("appendfsync")["appendfsync"]
        client.config_set("appendfsync", "always")
        try:
            yield
        finally:
            client.config_set("appendfsync", before)


def _forget(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        for key in client.scan_iter(_KEYS, count=1000):
            client.delete(key)
