"""What the log and the state share: commands sent through the pool, and listings kept beside what is written."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from agentstore import codec
from agentstore.drivers.recent import Clock, Recent, RecentItems
from agentstore.errors import AgentstoreError

from .client import Client, Command
from .keys import Keys
from .place import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from agentstore.options import PoolOptions
    from agentstore.pool import Pools
    from agentstore.url import StoreURL

    from .following import Following

_log = logging.getLogger("agentstore")

Pair: TypeAlias = tuple[str, str]
"""The key of a listing, and a member of it."""

TIME = ("TIME",)


class Relisting(NamedTuple):
    """How listings change with one write: what is to be found in them from now on, and what no more."""

    added: list[Pair]
    removed: list[Pair]


def relisting(new: Iterable[Pair], old: Iterable[Pair]) -> Relisting:
    """From all that was listed to all that shall be."""
    new, old = dict.fromkeys(new), dict.fromkeys(old)
    return Relisting([pair for pair in new if pair not in old], [pair for pair in old if pair not in new])


class Wire:
    """Commands to the servers of one URL.

    Attributes:
        place: Where they are.
        keys: The names of our keys there.
        patience: Seconds after which a write that others keep overtaking is given up.
        one_server: All keys are on one server, so a script writes a session and its listings in one step.
        recent, items: Sessions and items that were written last.
        clock: That of the servers.
        following: If the server is a replica, what it must tell before each answer counts.
    """

    def __init__(self, url: StoreURL, options: PoolOptions, pools: Pools[Client]) -> None:
        self.place = parse(url)
        self.keys = Keys(self.place.prefix)
        self.patience = options.statement_timeout
        self.one_server = self.place.mode != "cluster"
        self.recent: Recent[str] = Recent()
        self.items = RecentItems()
        self.clock = Clock()
        self.following: Following | None = None
        self._pools = pools

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """`Client.run`."""
        async with self._pools.connection() as client:
            if self.following is None:
                return await client.run(commands)
            told, *answers = await client.run([self.following.question, *commands])
            self.following.check(told)
            return answers

    async def ask(self, *commands: Command) -> list[Any]:
        """`run`, where every command must succeed.

        Raises:
            AgentstoreError: The first that did not.
        """
        answers = await self.run(commands)
        for answer in answers:
            if isinstance(answer, AgentstoreError):
                raise answer
        return answers

    async def everywhere(self, *args: str) -> list[tuple[str, Any]]:
        """`Client.everywhere`."""
        async with self._pools.connection() as client:
            return await client.everywhere(*args)

    async def search(self, pattern: str, take: Callable[[list[bytes]], None]) -> None:
        """`Client.search`."""
        async with self._pools.connection() as client:
            await client.search(pattern, take)

    def time_of(self, answer: Sequence[bytes]) -> datetime:
        """The time that `TIME` has just given."""
        seconds, micros = answer
        moment = codec.from_micros(int(seconds) * 1_000_000 + int(micros))
        self.clock.heard(moment)
        return moment

    # --- listings ---

    def within(self, change: Relisting, first: int) -> tuple[list[str], list[str | int]]:
        """The end of a script's KEYS and ARGV that changes listings in the same step; nothing on a cluster.

        Args:
            change: How they change.
            first: The number that the first of these keys has for the script.
        """
        if not self.one_server:
            return [], []
        arguments: list[str | int] = []
        keys = [key for key, _ in (*change.added, *change.removed)]
        for place, (_, member) in enumerate(change.added, start=first):
            arguments += ("ZADD", place, 2, 0, member)
        for place, (_, member) in enumerate(change.removed, start=first + len(change.added)):
            arguments += ("ZREM", place, 1, member)
        return keys, arguments

    async def before(self, changes: Iterable[Relisting]) -> None:
        """On a cluster, before scripts: add. So a crash in between leaves too much listed, never too little."""
        if not self.one_server:
            await self.add(pair for change in changes for pair in change.added)

    async def after(self, changes: Iterable[Relisting]) -> None:
        """On a cluster, after scripts that have written: remove.

        What was written is written: a listing that cannot be reached now keeps what is old, until it is next read.
        """
        if not self.one_server:
            try:
                await self.remove(pair for change in changes for pair in change.removed)
            except AgentstoreError as error:
                _log.info("%s: a listing keeps entries that are out of date for now: %s", self.place.text, error)

    async def add(self, pairs: Iterable[Pair]) -> None:
        """List them."""
        await self._change("ZADD", pairs)

    async def remove(self, pairs: Iterable[Pair]) -> None:
        """List them no more."""
        await self._change("ZREM", pairs)

    async def _change(self, name: str, pairs: Iterable[Pair]) -> None:
        members: dict[str, list[str | int]] = {}
        for key, member in pairs:
            members.setdefault(key, []).extend((0, member) if name == "ZADD" else (member,))
        if members:
            await self.ask(*(Command(key, (name, key, *some)) for key, some in members.items()))


def checked(answer: Any) -> Any:
    """The answer, unless it is an error.

    Raises:
        AgentstoreError: It is.
    """
    if isinstance(answer, AgentstoreError):
        raise answer
    return answer
