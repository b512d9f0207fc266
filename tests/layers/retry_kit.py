"""A backend that fails as it is told, and a clock that stands still unless somebody waits."""

from collections import deque

from agentstore.drivers.memory import MemoryBackend
from agentstore.errors import UnavailableError
from agentstore.layers.retry import Retrying
from agentstore.options import PoolOptions, RetryOptions
from agentstore.protocol import Append, Read
from agentstore.records import Message
from agentstore.stats import Events
from agentstore.url import StoreURL

CALLS = (
    *("aopen", "ping", "examine", "append", "read", "heads", "list_sessions", "pop", "clear", "update", "delete"),
    *("restore", "purge_sessions", "get_items", "write_items", "scan", "namespaces", "purge_state", "find", "rewrite"),
)


def refused():
    """No connection could be made."""
    return UnavailableError("refused", unsent=True)


def lost():
    """Nobody knows what became of the call."""
    return UnavailableError("lost")


class Flaky(MemoryBackend):
    """Memory whose calls go by a plan, one step each, and well when it is used up.

    A step is an error, raised instead of the call; `After` an error, raised when it is done; `Single` errors for some
    operations of a batch, by their place; None: nothing happens.
    """

    def __init__(self):
        super().__init__(StoreURL("memory"), PoolOptions())
        self.plan = deque()
        self.calls = []


class After:
    def __init__(self, error):
        self.error = error


class Single:
    def __init__(self, errors):
        self.errors = errors


def _planned(name):
    async def call(self, *args, **kwargs):
        self.calls.append((name, *args))
        run = getattr(super(Flaky, self), name)
        match self.plan.popleft() if self.plan else None:
            case BaseException() as error:
                raise error
            case After(error=error):
                await run(*args, **kwargs)
                raise error
            case Single(errors=errors):
                (batch,) = args
                good = iter(await run([op for place, op in enumerate(batch) if place not in errors]))
                return [errors[place] if place in errors else next(good) for place in range(len(batch))]
        return await run(*args, **kwargs)

    return call


for _name in CALLS:
    setattr(Flaky, _name, _planned(_name))


class Time:
    """A clock that moves when somebody sleeps, and notes the pauses."""

    def __init__(self):
        self.now = 1000.0
        self.pauses = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds


class Rig:
    """`Retrying` around a `Flaky` backend."""

    def __init__(self, **options):
        self.backend = Flaky()
        self.time = Time()
        self.events = Events()
        self.store = Retrying(
            self.backend, RetryOptions(**options), "db://h/x", self.events, clock=self.time, sleep=self.time.sleep
        )
        self.breaker = self.store.breaker

    def fail(self, *steps):
        """What happens to the next calls."""
        self.backend.plan.extend(steps)

    def called(self, name):
        """What the backend was given, call by call."""
        return [args for called, *args in self.backend.calls if called == name]

    async def words(self, session_id="s"):
        """What the session's messages say."""
        (messages,) = await MemoryBackend.read(self.backend, [Read(session_id)])
        return [message.content for message in messages]


def turn(text="hello", session_id="s", **fields):
    return Append(session_id, (Message("user", text),), **fields)
