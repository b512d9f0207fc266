"""Which server has a key: always the same, the one that the sentinels name, or that of the key's slot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from redis.asyncio.sentinel import MasterNotFoundError
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AuthenticationError, MovedError, RedisClusterException, RedisError, ResponseError

from .place import Address

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from .place import Place

    Ask = Callable[[Address, tuple[str, ...]], Awaitable[Any]]
    """Sends one command to a server, over a connection of its own, and gives the answer."""


class Topology(Protocol):
    """Leads from keys to servers.

    Attributes:
        stale: What is known may be out of date: `learn` before the next command.
        fixed: There is nothing to learn.
    """

    stale: bool
    fixed: bool

    def address(self, key: str) -> Address:
        """The server that has `key`."""

    def everyone(self) -> list[Address]:
        """Each server that has keys."""

    async def learn(self, ask: Ask) -> None:
        """Find out anew."""

    def moved(self, error: MovedError) -> None:
        """A server said that a slot is another's now."""

    def down(self, key: str) -> None:
        """The server that has `key` said that its cluster is down, which may be no cluster any more."""


class Single:
    """One server."""

    stale, fixed = False, True

    def __init__(self, place: Place) -> None:
        self._address = place.addresses[0]

    def address(self, key: str) -> Address:
        del key
        return self._address

    def everyone(self) -> list[Address]:
        return [self._address]

    async def learn(self, ask: Ask) -> None:
        """There is nothing to learn."""

    def moved(self, error: MovedError) -> None:
        raise error  # a server of a cluster, as one alone

    def down(self, key: str) -> None:
        """There is nothing else to ask."""


class Sentinels:
    """The master that the first sentinel to answer names."""

    fixed = False

    def __init__(self, place: Place) -> None:
        self.stale = True
        self._sentinels = list(place.addresses)
        self._service = place.service
        self._master = self._sentinels[0]

    def address(self, key: str) -> Address:
        del key
        return self._master

    def everyone(self) -> list[Address]:
        return [self._master]

    async def learn(self, ask: Ask) -> None:
        last: Exception | None = None
        for sentinel in list(self._sentinels):
            try:
                found = await ask(sentinel, ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
            except AuthenticationError:
                raise
            except (RedisError, OSError) as error:
                last = error
                continue
            if not found:
                last = MasterNotFoundError(f"{sentinel} knows no {self._service!r}")
                continue
            self._sentinels.remove(sentinel)  # the next time, begin with one that answers
            self._sentinels.insert(0, sentinel)
            self._master = Address(found[0].decode(), int(found[1]))
            self.stale = False
            return
        raise MasterNotFoundError(f"no sentinel knows {self._service!r}; the last one: {last}") from last

    def moved(self, error: MovedError) -> None:
        raise error

    def down(self, key: str) -> None:
        del key
        self.stale = True


class Cluster:
    """A server for each of the 16,384 slots."""

    fixed = False

    def __init__(self, place: Place) -> None:
        self.stale = True
        self._known = list(place.addresses)
        self._moved: dict[int, Address] = {}
        self._down: set[Address] = set()
        self._slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS

    def address(self, key: str) -> Address:
        found = self._slots[key_slot(key.encode())]
        if found is None:
            self.stale = True
            raise RedisClusterException("no server of the cluster has the slot of a key")
        return found

    def everyone(self) -> list[Address]:
        return sorted({address for address in self._slots if address})

    async def learn(self, ask: Ask) -> None:
        last: Exception | None = None
        best: tuple[int, Address, list[Address | None]] | None = None
        known = dict.fromkeys((*self._known, *self.everyone()))
        for address in sorted(known, key=self._down.__contains__):
            try:
                ranges = await ask(address, ("CLUSTER", "SLOTS"))
            except (AuthenticationError, ResponseError):
                raise  # it answers, and says that it is no cluster, or not for us
            except (RedisError, OSError) as error:
                last = error
                continue
            table = _table(ranges, address)
            holes = table.count(None)
            if best is None or holes < best[0]:
                best = holes, address, table
            if not holes:  # with some, it may be of a server that has left the cluster: others may know better
                break
        if best is None:
            raise RedisClusterException(f"no server of the cluster can be reached; the last one: {last}") from last
        _, address, self._slots = best
        for slot, moved in self._moved.items():  # who was asked may not have heard of it yet
            self._slots[slot] = moved
        self._moved.clear()
        self._down.clear()
        if address in self._known:
            self._known.remove(address)
        self._known.insert(0, address)  # the next time, begin with one that answers
        self.stale = False

    def moved(self, error: MovedError) -> None:
        self.stale = True  # as a rule many slots have moved
        if error.host:
            self._moved[error.slot_id] = Address(error.host, error.port)

    def down(self, key: str) -> None:
        self.stale = True
        found = self._slots[key_slot(key.encode())]
        if found is not None:
            self._down.add(found)


def _table(ranges: Iterable[Any], asked: Address) -> list[Address | None]:
    """What ``CLUSTER SLOTS`` says; a server that does not know its own name is the one that was asked."""
    slots: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_ in ranges:
        address = Address(host.decode() if host else asked.host, port)
        slots[first : last + 1] = [address] * (last + 1 - first)
    return slots


def topology(place: Place) -> Topology:
    """That of the URL."""
    kinds: dict[str, type[Single | Sentinels | Cluster]] = {
        "single": Single,
        "sentinel": Sentinels,
        "cluster": Cluster,
    }
    return kinds[place.mode](place)
