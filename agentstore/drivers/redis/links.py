"""The connections of one event loop: those that rest, by server, and those at work."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import ReadOnlyError, ResponseError

from .errors import RAISED
from .link import Link, tls_context

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentstore.options import PoolOptions

    from .place import Address, Place

_OPENING = 0.8  # of connect_timeout; a server that stays silent (TLS to a port of plain text) is told of in time

pack: Any = hiredis.pack_command  # its own type says that it takes tuples of one element alone


class Links:
    """Connections to the servers of a place. How many there may be is bounded by how many callers are let in."""

    def __init__(self, place: Place, options: PoolOptions) -> None:
        self._place = place
        self._patience = _OPENING * options.connect_timeout
        self._lifetime = options.max_lifetime
        self._tls = None if place.tls is None else tls_context(place.tls)
        self._idle: defaultdict[Address, list[Link]] = defaultdict(list)
        self._links: set[Link] = set()

    async def take(self, address: Address) -> Link:
        """A connection that is alive, for one caller."""
        idle = self._idle[address]
        while idle:
            link = idle.pop()
            if time.monotonic() - link.born < self._lifetime and await self._is_alive(link):
                return link
            self.drop(link)
        link = Link(address, self._place.login, self._place.database, self._tls)
        self._links.add(link)
        try:
            async with asyncio.timeout(self._patience):
                await link.open()
                await self._check_master(link)
        except BaseException:
            self.drop(link)
            raise
        return link

    def give_back(self, link: Link) -> None:
        """The caller has read all answers."""
        self._idle[link.address].append(link)

    def drop(self, link: Link) -> None:
        """The caller has not, or it is dead."""
        self._links.discard(link)
        link.drop()

    def keep(self, addresses: Iterable[Address]) -> None:
        """Let go of the resting connections to other servers."""
        for address in self._idle.keys() - set(addresses):
            for link in self._idle.pop(address):
                self.drop(link)

    async def ask(self, address: Address, args: tuple[str, ...]) -> Any:
        """One command over a connection of its own: to a sentinel, or to whoever may know the cluster."""
        sentinel = self._place.mode == "sentinel"
        link = Link(address, self._place.sentinel_login if sentinel else self._place.login, 0, self._tls)
        try:
            async with asyncio.timeout(self._patience):
                await link.open()
                (answer,) = await link.exchange(pack(args), 1)
        finally:
            link.drop()
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    async def aclose(self) -> None:
        """Close all."""
        self._idle.clear()
        while self._links:
            link = self._links.pop()
            try:
                await link.close()
            except RAISED:  # it had ended already
                link.drop()

    def terminate(self) -> None:
        """Cut all, from any thread."""
        for link in list(self._links):
            link.terminate()

    def size(self) -> int:
        """How many there are."""
        return len(self._links)

    async def _is_alive(self, link: Link) -> bool:
        try:
            return await link.alive()
        except RAISED:
            return False
        except BaseException:
            self.drop(link)
            raise

    async def _check_master(self, link: Link) -> None:
        """What a sentinel names may have become a replica meanwhile, from which old data would be read."""
        if self._place.mode == "sentinel":
            (role,) = await link.exchange(pack(("ROLE",)), 1)
            if not isinstance(role, ResponseError) and role[0] != b"master":
                raise ReadOnlyError(f"{link.address} is no master any more")
