"""What OpenTelemetry is told: spans and figures of calls, commits and mishaps; and nothing where nobody records."""

import asyncio
import gc
import os
import subprocess
import sys
import weakref

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from agentstore import AccessDeniedError, ConflictError, QueueOptions, RetryOptions, UnavailableError, db, telemetry
from agentstore.drivers import registry
from agentstore.drivers.memory import MemoryBackend
from agentstore.stats import PoolStats
from agentstore.telemetry.watch import described
from agentstore.url import StoreURL

pytestmark = pytest.mark.anyio

URL = "puppet://alice:s3cret@db.example.com:5433/shop?token=t0ken"
FIXED = {
    "db.system.name": "puppet",
    "db.namespace": "shop",
    "server.address": "db.example.com",
    "server.port": 5433,
}


class Puppet(MemoryBackend):
    """A server that raises what it is told, once each, or as long as it is told to."""

    raises: list[Exception] = []  # noqa: RUF012
    down = False

    def __init__(self, url, pool):
        super().__init__(StoreURL("memory"), pool)

    async def aopen(self):
        if Puppet.down:
            raise UnavailableError("nobody there", unsent=True)
        await super().aopen()

    async def append(self, batch):
        if Puppet.down:
            raise UnavailableError("nobody there", unsent=True)
        if Puppet.raises:
            raise Puppet.raises.pop()
        return await super().append(batch)

    def pools(self):
        return (PoolStats("puppet://h", size=5, in_use=2, waiting=3, number=7),)


@pytest.fixture(autouse=True)
def puppet(monkeypatch):
    spec = registry.DriverSpec(f"{__name__}:Puppet", options=frozenset({"token"}))
    monkeypatch.setitem(registry._DRIVERS, "puppet", spec)
    monkeypatch.setattr(Puppet, "raises", [])
    monkeypatch.setattr(Puppet, "down", False)


class Recorded:
    """What the SDK was told."""

    def __init__(self):
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def spans(self, name=None):
        """Those of that name, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def points(self):
        """All figures, by the name of their instrument."""
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics]
        return {metric.name: list(metric.data.data_points) for metric in metrics if metric.data.data_points}

    def value(self, name, **attributes):
        """One figure, by its attributes beside those of the backend."""
        (point,) = [p for p in self.points()[name] if dict(p.attributes) == FIXED | attributes]
        return point.value


@pytest.fixture
def recorded(monkeypatch):
    recorded = Recorded()
    monkeypatch.setattr(telemetry, "recording", lambda: (recorded.tracers, recorded.meters))
    yield recorded
    recorded.tracers.shutdown()
    recorded.meters.shutdown()


def user(text="hi"):
    return {"role": "user", "content": text}


# --- calls ---


async def test_an_append(recorded):
    async with db(URL) as database:
        await database.append("s", [user(), user(), user()])
        points = recorded.points()
    (append,), (commit,) = recorded.spans("agentstore append"), recorded.spans("agentstore commit")
    assert append.attributes == FIXED | {"db.operation.name": "append", "db.operation.batch.size": 3}
    assert (append.kind, append.status.status_code) == (SpanKind.CLIENT, StatusCode.UNSET)
    assert commit.attributes == FIXED | {"db.operation.name": "commit", "agentstore.commit.bytes": 6}
    assert commit.parent == append.context
    assert [link.context for link in commit.links] == [append.context]
    assert append.start_time <= commit.start_time <= commit.end_time <= append.end_time
    (duration,) = points["db.client.operation.duration"]
    assert (duration.count, dict(duration.attributes)) == (1, FIXED | {"db.operation.name": "append"})
    assert 0 < duration.sum < 60
    assert duration.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
    (size,) = points["agentstore.commit.size"]
    assert (size.count, size.sum) == (1, 1)


async def test_every_call_has_a_span_within_that_of_its_caller(recorded):
    tracer = recorded.tracers.get_tracer("app")
    async with db(URL) as database:
        with tracer.start_as_current_span("request"):
            await database.append("s", user())
            await database.messages("s")
            await database.pop("s")
            await database.state.set_many({"a": 1, "b": 2})
            await database.state.get_many(["a", "b", "c"])
            await database.flush()
    (request,) = recorded.spans("request")
    told = [span for span in recorded.spans() if span.name not in ("request", "agentstore commit")]
    sizes = {span.name.removeprefix("agentstore "): span.attributes.get("db.operation.batch.size") for span in told}
    assert sizes == {"append": None, "messages": None, "pop": None, "set": 2, "get": 3, "flush": None}
    assert all(span.parent == request.context for span in told)


async def test_what_the_backend_does_is_within_the_commit(recorded, monkeypatch):
    tracer, append = recorded.tracers.get_tracer("driver"), Puppet.append

    async def traced(self, batch):
        with tracer.start_as_current_span("INSERT"):
            return await append(self, batch)

    monkeypatch.setattr(Puppet, "append", traced)
    async with db(URL) as database:
        await asyncio.gather(*(database.append(f"s{n}", user()) for n in range(2)))
    (insert,), (commit,) = recorded.spans("INSERT"), recorded.spans("agentstore commit")
    assert insert.parent == commit.context


async def test_a_call_that_fails(recorded):
    async with db(URL) as database:
        with pytest.raises(ConflictError):
            await database.append("s", user(), expected_seq=9)
        points = recorded.points()
    (append,), (commit,) = recorded.spans("agentstore append"), recorded.spans("agentstore commit")
    for span in (append, commit):
        assert span.attributes["error.type"] == "ConflictError"
        assert (span.status.status_code, span.status.description, span.events) == (StatusCode.ERROR, None, ())
    assert commit.attributes["agentstore.commit.failed"] == 1
    (duration,) = points["db.client.operation.duration"]
    assert duration.attributes["error.type"] == "ConflictError"


async def test_a_database_that_cannot_be_opened(recorded):
    Puppet.down = True
    database = db(URL, retry=RetryOptions(attempts=1))
    with pytest.raises(UnavailableError):
        await database.messages("s")
    (span,) = recorded.spans()
    assert (span.name, span.attributes["error.type"]) == ("agentstore messages", "UnavailableError")
    await database.aclose()


async def test_the_state_may_be_elsewhere(recorded):
    async with db("memory:", URL) as database:
        await database.append("s", user())
        await database.state.set("k", 1)
    systems = [(span.name, span.attributes["db.system.name"], span.kind) for span in recorded.spans()]
    memory, puppet = ("memory", SpanKind.INTERNAL), ("puppet", SpanKind.CLIENT)
    assert systems == [
        ("agentstore commit", *memory),
        ("agentstore append", *memory),
        ("agentstore commit", *puppet),
        ("agentstore set", *puppet),
    ]


# --- groups ---


async def test_a_group_is_one_commit(recorded):
    async with db(URL) as database:
        await asyncio.gather(*(database.append(f"s{n}", user()) for n in range(64)))
        points = recorded.points()
    appends, (commit,) = recorded.spans("agentstore append"), recorded.spans("agentstore commit")
    assert commit.attributes["db.operation.batch.size"] == 64
    assert commit.parent is None
    assert {link.context.span_id for link in commit.links} == {span.context.span_id for span in appends}
    assert len(commit.links) == 64
    (size,) = points["agentstore.commit.size"]
    assert (size.count, size.sum) == (1, 64)
    queue = database.stats().queue
    assert (queue.groups, queue.writes) == (1, 64)


async def test_one_bad_write_of_a_group(recorded):
    async with db(URL) as database:
        bad = database.append("bad", user(), expected_seq=9)
        await asyncio.gather(bad, database.append("good", user()), return_exceptions=True)
    (commit,) = recorded.spans("agentstore commit")
    assert commit.attributes["agentstore.commit.failed"] == 1
    assert commit.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("durability", ["journal", "memory"])
async def test_a_deferred_append(recorded, durability, tmp_path):
    options = QueueOptions(journal_dir=tmp_path, flush_interval=0.5)
    async with db(URL, durability=durability, queue=options) as database:
        await database.append("s", user("one"))  # goes at once
        await database.flush()
        await asyncio.gather(database.append("s", user()), database.append("t", user()))
        await database.flush()
    first, *appends = recorded.spans("agentstore append")
    commit, *others = recorded.spans("agentstore commit")
    assert commit.parent == first.context
    assert sum(other.attributes.get("db.operation.batch.size", 1) for other in others) == 2
    linked = [link.context.span_id for other in others for link in other.links]
    assert sorted(linked) == sorted(append.context.span_id for append in appends)


# --- mishaps ---


async def test_a_retry(recorded):
    Puppet.raises = [UnavailableError("cut", unsent=True)]
    async with db(URL) as database:
        await database.append("s", user())
        assert recorded.value("agentstore.retries") == 1
        assert database.stats().retries == 1
    (append,) = recorded.spans("agentstore append")
    assert append.status.status_code is StatusCode.UNSET


async def test_a_fast_failure_and_fallbacks(recorded, tmp_path):
    async with db(URL, retry=RetryOptions(attempts=1)) as database:
        Puppet.down = True
        for _ in range(3):
            with pytest.raises(UnavailableError):
                await database.append("s", user())
        assert recorded.value("agentstore.fast_failures") == database.stats().fast_failures > 0
        Puppet.down = False
    options = QueueOptions(journal_dir=tmp_path)
    async with db(URL, fallback="memory", queue=options, retry=RetryOptions(attempts=1)) as database:
        Puppet.down = True
        await database.append("s", user())
        await database.append("s", user("abc"))
        assert recorded.value("agentstore.fallbacks") == database.stats().fallbacks == 2
        assert recorded.value("agentstore.queue.messages") == database.stats().queue.messages == 2
        assert recorded.value("agentstore.queue.bytes") == database.stats().queue.bytes > 0
        Puppet.down = False
    assert any(span.attributes.get("error.type") for span in recorded.spans("agentstore commit"))


@pytest.mark.parametrize("durability", ["commit", "journal"])
async def test_what_is_replayed(recorded, tmp_path, durability):
    options = QueueOptions(journal_dir=tmp_path, close_timeout=0.01)
    database = db(URL, durability="journal", queue=options, retry=RetryOptions(attempts=1))
    await database.aopen()
    Puppet.down = True
    await database.append("s", user())
    assert recorded.value("agentstore.journal.bytes") == database.stats().queue.journal_bytes > 0
    await database.aclose()
    Puppet.down = False
    async with db(URL, durability=durability, queue=options) as database:
        assert recorded.value("agentstore.replayed") == database.stats().queue.replayed == 1


async def test_what_is_rejected(recorded, tmp_path):
    async with db(URL, durability="memory", queue=QueueOptions(journal_dir=tmp_path)) as database:
        Puppet.raises = [AccessDeniedError("not yours")]
        await database.append("s", user())
        with pytest.raises(AccessDeniedError):
            await database.flush()
        assert recorded.value("agentstore.rejected") == database.stats().queue.rejected == 1


# --- what is asked ---


async def test_databases_share_a_pool(recorded):
    async with db(URL) as first, db(URL) as second:
        await first.append("s", user())
        await second.append("s", user())
        pool = {"db.client.connection.pool.name": "db.example.com:5433/shop"}
        count = "db.client.connection.count"
        assert recorded.value(count, **pool, **{"db.client.connection.state": "used"}) == 2
        assert recorded.value(count, **pool, **{"db.client.connection.state": "idle"}) == 3
        assert recorded.value("db.client.connection.pending_requests", **pool) == 3


async def test_a_closed_database_reports_nothing(recorded):
    async with db(URL) as database:
        await database.append("s", user())
        assert recorded.value("agentstore.queue.messages") == 0
    assert "agentstore.queue.messages" not in recorded.points()
    assert "db.client.connection.count" not in recorded.points()


async def test_a_dropped_database_is_let_go(recorded):
    database = db(URL)
    await database.append("s", user())
    dropped = weakref.ref(database)
    del database
    gc.collect()
    assert dropped() is None
    assert "agentstore.queue.messages" not in recorded.points()


async def test_nothing_tells_a_secret(recorded, tmp_path):
    options = QueueOptions(journal_dir=tmp_path)
    for durability in ("commit", "journal"):
        async with db(URL, durability=durability, queue=options) as database:
            await database.append("session-nine", user("my words"), user_id="user-nine", agent="agent-nine")
            await database.messages("session-nine", user_id="user-nine")
            await database.state.scope("scope-nine").set("key-nine", "my value")
            with pytest.raises(AccessDeniedError):
                await database.messages("session-nine", user_id="other-nine")
            with pytest.raises(ConflictError):
                await database.append("session-nine", user("my words"), expected_seq=99)
            told = repr(recorded.points()) + "".join(span.to_json() for span in recorded.spans())
            for secret in ("s3cret", "alice", "t0ken", "-nine", "my words", "my value"):
                assert secret not in told
            assert "db.example.com" in told


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("memory:", {"db.system.name": "memory"}),
        ("sqlite:////var/lib/chat.db", {"db.system.name": "sqlite", "db.namespace": "chat.db"}),
        ("file:///var/lib/x%FF", {"db.system.name": "json", "db.namespace": "x?"}),
        ("redis+unix:///run/redis.sock?db=3", {"db.system.name": "redis"}),
        (
            "postgres://u:p@a,b:5433/shop",
            {"db.system.name": "postgresql", "db.namespace": "shop", "server.address": "a,b"},
        ),
        (
            "redis+sentinel://s1/mymaster/0",
            {"db.system.name": "redis", "db.namespace": "0", "server.address": "s1"},
        ),
    ],
)
def test_how_a_backend_is_described(url, expected):
    assert described(StoreURL.parse(url)) == expected


# --- who records ---

USES = """
import asyncio, sys
from agentstore import db

async def main():
    async with db("memory:", durability="memory") as database:
        await database.append("s", {"role": "user", "content": "hi"})
        assert len(await database.messages("s")) == 1
        await database.flush()
        assert database.stats().queue.writes == 1
        return database._calls._watches
"""
NOBODY = """
watches = asyncio.run(main())
assert watches == (None,), watches
"""
BLOCKED = """
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}")

import sys
sys.meta_path.insert(0, Blocked())
try:
    import opentelemetry.trace
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("it is there")
"""
LATE = """
database = db("memory:")  # as a module does, before the program sets up anything
from opentelemetry.sdk.{part} import {provider}
import opentelemetry.{part}
opentelemetry.{part}.set_{kind}_provider({provider}())
database.sync.append("s", [])
assert database._calls._watches[0] is not None
database.close()
"""


def python(code):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=os.environ, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "code",
    [
        USES + NOBODY + "assert not [name for name in sys.modules if name.startswith('opentelemetry')]",
        BLOCKED + USES + NOBODY,
        "import opentelemetry.trace, opentelemetry.metrics" + USES + NOBODY,
        USES + LATE.format(part="trace", provider="TracerProvider", kind="tracer"),
        USES + LATE.format(part="metrics", provider="MeterProvider", kind="meter"),
    ],
    ids=["not imported", "not installed", "no provider", "a late tracer provider", "a late meter provider"],
)
def test_the_process_decides_who_records(code):
    python(code)
