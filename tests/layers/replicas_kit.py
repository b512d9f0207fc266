"""A primary and replicas in memory: what is replicated, and what fails, is told step by step."""

import copy

from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import UnavailableError
from agentstore.layers.fence import Fence
from agentstore.layers.noted import Noted
from agentstore.layers.place import PlaceOf
from agentstore.layers.replica import Replica
from agentstore.layers.replicas import Replicated
from agentstore.options import PoolOptions
from agentstore.protocol import GetItems, LaggingError, Read, Scan
from agentstore.url import StoreURL

STORED = ("_sessions", "_logs", "_items", "_floors", "_marks")


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Fake(MemoryBackend):
    """Memory that notes its calls, and does first what `before` has for them.

    Attributes:
        calls: The names of all.
        before: By name, an async function, or an error to raise.
        tells: Whether its position can be known.
        reached: As a replica, its position.
    """

    def __init__(self):
        super().__init__(StoreURL("memory"), PoolOptions())
        self.calls = []
        self.before = {}
        self.tells = True
        self.reached = 0
        self.written = 0
        self._required = lambda: None

    def count(self, *names):
        return sum(name in names for name in self.calls)

    async def position(self):
        await self._called("position")
        return str(self.written) if self.tells else None

    def follow(self, primary, required):
        self.primary, self._required = primary, required

    def catch_up(self):
        """Receive all that the primary has."""
        for name in STORED:
            setattr(self, name, copy.deepcopy(getattr(self.primary, name)))
        self.reached = self.primary.written

    async def _called(self, name):
        self.calls.append(name)
        match self.before.get(name):
            case None:
                pass
            case BaseException() as error:
                raise error
            case function:
                await function()
        if int(self._required() or 0) > self.reached:
            raise LaggingError("behind")


def _noted(name, *, writes):
    async def call(self, *args, **kwargs):
        await self._called(name)
        try:
            return await getattr(super(Fake, self), name)(*args, **kwargs)
        finally:
            self.written += writes

    return call


READS = ("read", "find", "heads", "list_sessions", "get_items", "scan")
WRITES = ("append", "pop", "clear", "update", "delete", "restore", "rewrite", "purge_sessions", "write_items")
WRITES += ("purge_state",)
for _name in ("aopen", "ping", "examine", *READS):
    setattr(Fake, _name, _noted(_name, writes=False))
for _name in WRITES:
    setattr(Fake, _name, _noted(_name, writes=True))


class Rig:
    """`Replicated` around one primary and some replicas."""

    def __init__(self, replicas=1, patience=5.0):
        self.clock = Clock()
        self.primary = Fake()
        self.replicas = [Fake() for _ in range(replicas)]
        fence = Fence(self.primary.position, "fake://primary", self.clock)
        followers = []
        for number, replica in enumerate(self.replicas):
            replica.follow(self.primary, fence.required)
            followers.append(Replica(f"fake://replica-{number}", replica, patience, self.clock))
        located = PlaceOf(StoreURL("memory"))
        located.place.enter(None, fence)
        self.replicated = Replicated(self.primary, fence, followers)
        self.store = Noted(self.replicated, located)

    async def opened(self):
        await self.store.aopen()
        self.forget()
        return self

    def forget(self):
        """What was called so far."""
        for backend in (self.primary, *self.replicas):
            backend.calls.clear()

    def catch_up(self):
        for replica in self.replicas:
            replica.catch_up()

    async def words(self, session_id="s"):
        """What the session's messages say, as the store tells it."""
        (messages,) = await self.store.read([Read(session_id)])
        return [message.content for message in messages]

    async def value(self):
        (items,) = await self.store.get_items([GetItems("n", ("k",))])
        return [item.value for item in items.values()]

    async def scanned(self):
        return [item.value for item in await self.store.scan(Scan("n"))]


def down():
    return UnavailableError("it is away")
