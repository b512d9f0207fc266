"""Sends groups of commands to where their keys are, and again where a server says that it has not carried them out."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from .errors import RAISED, passes, translated
from .links import Links, pack
from .place import Address
from .scripts import SOURCES
from .topology import topology

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from agentstore.options import PoolOptions

    from .link import Link
    from .place import Place

_PAUSE = 0.03  # seconds before a server is asked again that could not do it yet
_AT_ONCE = 2  # further attempts without a pause: one finds out where to, one gets there
_SEARCHED = 1000  # keys that a server looks at in one go
_NOT_YET = (BusyLoadingError, ClusterDownError, MasterDownError, TryAgainError)
_ASKING = pack(("ASKING",))


class Command(NamedTuple):
    """A command, and the key that tells where to send it."""

    key: str
    args: tuple[str | bytes | int, ...]


class _Unsent(Exception):  # noqa: N818  it never leaves this module
    """No connection could be made: nothing was sent."""

    def __init__(self, why: Exception) -> None:
        super().__init__(why)
        self.why = why


class Client:
    """The connections of one event loop, for any number of its tasks at once; a `NativePool` that gives itself.

    A command is sent again only if a server said that it did not carry it out (the script is not known, the slot is
    elsewhere, the data is still loading, this is a replica now), or if no connection could be made. What was on its way
    when a connection was lost is not: its answer is an `UnavailableError`.
    """

    def __init__(self, place: Place, options: PoolOptions) -> None:
        self._text = place.text
        self._options = options
        self._searches = 2 if place.mode == "cluster" else 1
        self._topology = topology(place)
        self._links = Links(place, options)
        self._learning: asyncio.Task[None] | None = None

    # --- as a pool ---

    async def acquire(self) -> Client:
        return self

    def release(self, connection: Client, error: BaseException | None) -> None:
        """Links go back by themselves."""

    async def aclose(self) -> None:
        await self._links.aclose()

    def terminate(self) -> None:
        self._links.terminate()

    def size(self) -> int:
        return self._links.size()

    # --- commands ---

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        """An answer for each command, in order; an `AgentstoreError` where it failed.

        Commands for one server go out together, and are carried out in order. Where one has to go again, so do those
        after it in its slot, for they may depend on the order; but no script, which does not.
        """
        answers: list[Any] = [None] * len(commands)
        args = [command.args for command in commands]
        redirected: dict[int, Address] = {}
        left: Sequence[int] = range(len(commands))
        deadline = time.monotonic() + self._options.connect_timeout / 2
        for attempt in itertools.count(1):
            groups = await self._grouped(commands, left, redirected, answers)
            exchanges = [
                self._exchange(address, indices, args, redirected.keys() & set(indices) if redirected else (), answers)
                for address, indices in groups.items()
            ]
            if len(exchanges) == 1:
                await exchanges[0]
            else:
                await asyncio.gather(*exchanges)
            failed = [index for index in left if isinstance(answers[index], Exception)]
            if not failed:
                return answers
            redirected = {}
            again = [index for index in failed if self._again(index, commands[index].key, args, answers, redirected)]
            left = _with_later(again, commands)
            if not left or time.monotonic() > deadline:
                break
            if attempt > _AT_ONCE or any(isinstance(answers[index], (*_NOT_YET, _Unsent)) for index in again):
                await asyncio.sleep(_PAUSE)
        return [self._told(answer) if isinstance(answer, Exception) else answer for answer in answers]

    async def everywhere(self, *args: str) -> list[tuple[str, Any]]:
        """The answer of each server to a command, with its address."""
        try:
            if self._topology.stale:
                await self._learn()
        except RAISED as error:
            raise translated(error, self._text, sent=False) from error
        found = []
        for address in self._topology.everyone():
            answers: list[Any] = [None]
            await self._exchange(address, [0], [args], frozenset(), answers)
            answer = answers[0]
            found.append((str(address), self._told(answer) if isinstance(answer, Exception) else answer))
        return found

    async def search(self, pattern: str, take: Callable[[list[bytes]], None]) -> None:
        """Hand over, page by page, every key like `pattern` that is there all the while; some of them twice.

        A cluster is searched twice: a key may go from a server whose turn is yet to come to one that had its turn.

        Raises:
            AgentstoreError: A server has not answered, or another has taken its place meanwhile.
        """
        try:
            for _ in range(self._searches):
                if not self._topology.fixed:
                    await self._learn()
                for address in self._topology.everyone():
                    await self._search(address, pattern, take)
        except RAISED as error:
            raise translated(error, self._text) from error

    async def _search(self, address: Address, pattern: str, take: Callable[[list[bytes]], None]) -> None:
        """One server, over one connection: a cursor means nothing to another process at the same address."""
        link = await self._links.take(address)
        cursor = None
        try:
            while cursor != b"0":
                async with asyncio.timeout(self._options.statement_timeout):
                    cursor, found = await _page(link, cursor or b"0", pattern)
                take(found)
        except BaseException:
            self._links.drop(link)
            raise
        self._links.give_back(link)

    def _told(self, answer: Exception) -> Exception:
        if isinstance(answer, _Unsent):
            return translated(answer.why, self._text, sent=False)
        return translated(answer, self._text)

    async def _grouped(
        self, commands: Sequence[Command], left: Iterable[int], redirected: dict[int, Address], answers: list[Any]
    ) -> dict[Address, list[int]]:
        """The commands that are left, by server; those that have none are answered."""
        if self._topology.fixed:
            return {self._topology.address(""): list(left)}
        groups: defaultdict[Address, list[int]] = defaultdict(list)
        try:
            if self._topology.stale:
                await self._learn()
            for index in left:
                groups[redirected.get(index) or self._topology.address(commands[index].key)].append(index)
        except RAISED as error:
            groups.clear()
            for index in left:
                answers[index] = _Unsent(error)
        return groups

    async def _exchange(
        self,
        address: Address,
        indices: Sequence[int],
        args: Sequence[tuple[str | bytes | int, ...]],
        asking: Collection[int],
        answers: list[Any],
    ) -> None:
        """Let one server answer; what went wrong is the answer of each."""
        if asking:
            packed = b"".join([(_ASKING if i in asking else b"") + pack(args[i]) for i in indices])
        else:
            packed = b"".join([pack(args[i]) for i in indices])
        failure: Exception
        try:
            link = await self._links.take(address)
        except RAISED as error:
            failure = _Unsent(error)
        else:
            try:
                async with asyncio.timeout(self._options.statement_timeout):
                    found = iter(await link.exchange(packed, len(indices) + len(asking)))
            except RAISED as error:
                self._links.drop(link)
                failure = error
            except BaseException:
                self._links.drop(link)
                raise
            else:
                self._links.give_back(link)
                for index in indices:
                    if asking and index in asking:
                        next(found)
                    answers[index] = next(found)
                return
        for index in indices:
            answers[index] = failure

    def _again(self, index: int, key: str, args: list[Any], answers: list[Any], redirected: dict[int, Address]) -> bool:
        """Whether a command that failed was not carried out, and should be sent again."""
        error = answers[index]
        match error:
            case NoScriptError():
                _, digest, *rest = args[index]
                args[index] = ("EVAL", SOURCES[digest], *rest)
            case MovedError():
                if self._topology.fixed:
                    return False
                self._topology.moved(error)
            case AskError():
                redirected[index] = Address(error.host, error.port)
            case _Unsent(why=BusyLoadingError()):
                return True
            case ClusterDownError():
                self._topology.down(key)
            case ReadOnlyError() | _Unsent():
                if self._topology.fixed or (isinstance(error, _Unsent) and not passes(error.why)):
                    return False
                self._topology.stale = True
            case _:
                return isinstance(error, _NOT_YET)
        return True

    async def _learn(self) -> None:
        """Find out where the keys are; who comes meanwhile waits for the same answer."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.create_task(self._topology.learn(self._links.ask))
            self._learning.add_done_callback(_looked_at)
        await asyncio.shield(self._learning)
        self._links.keep(self._topology.everyone())


async def _page(link: Link, cursor: bytes, pattern: str) -> tuple[bytes, list[bytes]]:
    """The next cursor, which is ``0`` at the end, and the keys up to it."""
    (answer,) = await link.exchange(pack(("SCAN", cursor, "MATCH", pattern, "COUNT", _SEARCHED)), 1)
    if isinstance(answer, ResponseError):
        raise answer
    following, found = answer
    return following, found


def _with_later(again: Sequence[int], commands: Sequence[Command]) -> list[int]:
    """What has to go again, with the later commands of the same slots that are no scripts, in order.

    What was read after something else must still be read after it: else a head of now would stand beside a log of then.
    """
    first: dict[int, int] = {}
    for index in again:
        first.setdefault(key_slot(commands[index].key.encode()), index)

    def depends(index: int, command: Command) -> bool:
        if command.args[0] == "EVALSHA":
            return False
        return index > first.get(key_slot(command.key.encode()), len(commands))

    chosen = set(again)
    return [index for index, command in enumerate(commands) if index in chosen or (first and depends(index, command))]


def _looked_at(task: asyncio.Task[None]) -> None:
    """Those who waited for it may all have gone, and nobody has to be told then."""
    if not task.cancelled():
        task.exception()
