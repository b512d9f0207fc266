"""Tells OpenTelemetry of one backend: its calls, its commits, and what befell them.

Names follow the semantic conventions for database clients; what these do not know begins with ``agentstore``. No
attribute holds content, an id, a key, a user of the server or an option of a URL, nor does the text of any error.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry import context, trace
from opentelemetry.trace import Link, SpanKind, StatusCode

from .instruments import instruments

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from agentstore.url import StoreURL

    from . import Caller, Observed

Out = TypeVar("Out")

_SYSTEMS = {"postgres": "postgresql", "rediss": "redis", "clickhouses": "clickhouse", "file": "json"}
_EMBEDDED = {"sqlite", "json", "memory"}


class Watch:
    """One backend under watch, from any thread and event loop.

    Args:
        url: Where it is.
        observed: Is asked for figures.
        tracers, meters: Where spans and figures go.
    """

    def __init__(self, url: StoreURL, observed: Observed, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._fixed = described(url)
        self._kind = SpanKind.INTERNAL if self._fixed["db.system.name"] in _EMBEDDED else SpanKind.CLIENT
        self._tracer = tracers.get_tracer("agentstore")
        self._instruments = instruments(meters)
        self._instruments.observe(observed, self._fixed)

    def close(self, observed: Observed) -> None:
        """Ask for no further figures; it is not held here, for what nobody else holds is to be let go."""
        self._instruments.forget(observed)

    def count(self, event: str, times: int) -> None:
        """One of `agentstore.stats.Events` has come about."""
        self._instruments.events[event].add(times, self._fixed)

    # --- calls ---

    def begin(self, call: str, size: int) -> Call:
        """A public call begins, with so many messages, values or keys; what it awaits happens in its span."""
        attributes = self._fixed | {"db.operation.name": call}
        span = self._tracer.start_span(f"agentstore {call}", None, self._kind, attributes | _batch(size))
        return Call(self, attributes, span)

    # --- commits ---

    def caller(self) -> Caller:
        """The span that a write is handed in, for `commit`."""
        here = trace.get_current_span().get_span_context()
        return here if here.is_valid else None

    async def commit(
        self, run: Callable[[], Awaitable[Sequence[Out]]], callers: Sequence[Caller], size: int
    ) -> Sequence[Out]:
        """Carry out a group of writes in a span that links to those of its callers.

        Args:
            run: Carries it out; an outcome for each write, exceptions among them.
            callers: Of each write; their own spans may have ended.
            size: Bytes of the group.
        """
        self._instruments.commits.record(len(callers), self._fixed)
        links = [Link(caller) for caller in callers if caller is not None]
        attributes = self._fixed | {"db.operation.name": "commit", "agentstore.commit.bytes": size}
        attributes |= _batch(len(callers))
        with self._committing(_parent(callers), attributes, links) as span:
            outcomes = await run()
            failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
            if failed:
                span.set_attribute("agentstore.commit.failed", len(failed))
            if failed and len(failed) == len(outcomes):
                _fail(span, type(failed[0]))
            return outcomes

    @contextmanager
    def _committing(self, parent: Context, attributes: dict[str, Any], links: list[Link]) -> Iterator[Span]:
        span = self._tracer.start_span("agentstore commit", parent, self._kind, attributes, links)
        token = context.attach(trace.set_span_in_context(span, parent))
        try:
            yield span
        except BaseException as error:
            _fail(span, type(error))
            raise
        finally:
            context.detach(token)
            span.end()


class Call:
    """A public call under way, as the current span of its task."""

    __slots__ = ("_attributes", "_span", "_token", "_watch")

    def __init__(self, watch: Watch, attributes: dict[str, Any], span: Span) -> None:
        self._watch = watch
        self._attributes = attributes
        self._span = span
        self._token: Token[Context] = context.attach(trace.set_span_in_context(span))

    def end(self, seconds: float, error: type[BaseException] | None) -> None:
        """It took so long, and met this."""
        if error is not None:
            self._attributes["error.type"] = error.__name__
            _fail(self._span, error)
        self._watch._instruments.duration.record(seconds, self._attributes)  # noqa: SLF001  its own module
        context.detach(self._token)
        self._span.end()


def described(url: StoreURL) -> dict[str, Any]:
    """The attributes of a backend."""
    scheme, _, variant = url.scheme.partition("+")
    found: dict[str, Any] = {"db.system.name": _SYSTEMS.get(scheme, scheme)}
    name = PurePosixPath(url.path).name
    if name and variant != "unix":  # there it is the socket's
        found["db.namespace"] = name.encode(errors="replace").decode()
    if url.hosts:
        found["server.address"] = ",".join(host for host, _ in url.hosts)
        if len(url.hosts) == 1 and url.hosts[0][1] is not None:
            found["server.port"] = url.hosts[0][1]
    return found


def _batch(size: int) -> dict[str, Any]:
    return {"db.operation.batch.size": size} if size > 1 else {}  # by the conventions one is no batch


def _parent(callers: Sequence[Caller]) -> Context:
    """A lone caller's span is the parent. Those of several have different ones, and a commit has none."""
    nobody = context.Context()  # not the task's, which is that of whoever came first long ago
    if len(callers) == 1 and callers[0] is not None:
        return trace.set_span_in_context(trace.NonRecordingSpan(callers[0]), nobody)
    return nobody


def _fail(span: Span, error: type[BaseException]) -> None:
    """Only the error's class, for its text may name sessions and keys."""
    span.set_attribute("error.type", error.__name__)
    span.set_status(StatusCode.ERROR)
