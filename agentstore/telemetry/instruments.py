"""The instruments of one meter provider, shared by all backends that report to it."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

from opentelemetry.metrics import Observation

from agentstore.stats import EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from agentstore.stats import PoolStats

    from . import Observed

Attributes: TypeAlias = "dict[str, Any]"
Figures: TypeAlias = "Iterable[tuple[int, Attributes]]"

_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)  # as the conventions ask
_SIZES = tuple(2**power for power in range(11))

_guard = threading.Lock()
_known: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments(meters: MeterProvider) -> Instruments:
    """Those of a provider; made once, for a second set would be taken for a mistake."""
    with _guard:
        found = _known.get(meters)
        if found is None:
            found = _known[meters] = Instruments(meters)
        return found


class Instruments:
    """What is measured.

    Attributes:
        duration: Seconds of a public call.
        commits: Writes in a group.
        events: Counters, by event.
    """

    def __init__(self, meters: MeterProvider) -> None:
        meter = meters.get_meter("agentstore")
        self.duration = meter.create_histogram(
            "db.client.operation.duration", "s", "Duration of calls", explicit_bucket_boundaries_advisory=_SECONDS
        )
        self.commits = meter.create_histogram(
            "agentstore.commit.size",
            "{write}",
            "Writes that share one commit",
            explicit_bucket_boundaries_advisory=_SIZES,
        )
        self.events = {
            event: meter.create_counter(f"agentstore.{event}", "{event}", what) for event, what in EVENTS.items()
        }
        for name, unit, what, look in _OBSERVED:
            meter.create_observable_up_down_counter(name, [partial(self._look, look)], unit, what)
        self._guard = threading.Lock()  # nothing of OpenTelemetry is called under it
        self._observed: WeakKeyDictionary[Observed, Attributes] = WeakKeyDictionary()

    def observe(self, observed: Observed, attributes: Attributes) -> None:
        """Ask it for figures, until nobody else holds it."""
        with self._guard:
            self._observed[observed] = attributes

    def forget(self, observed: Observed) -> None:
        """Ask it no more."""
        with self._guard:
            self._observed.pop(observed, None)

    def _look(
        self, look: Callable[[Observed, Attributes, set[int]], Figures], _options: CallbackOptions
    ) -> list[Observation]:
        """One observation for each set of attributes: several Databases may be on one backend."""
        with self._guard:
            backends = list(self._observed.items())
        sums: dict[frozenset[tuple[str, Any]], int] = {}
        seen: set[int] = set()
        for observed, fixed in backends:
            for figure, attributes in look(observed, fixed, seen):
                key = frozenset(attributes.items())
                sums[key] = sums.get(key, 0) + figure
        return [Observation(figure, dict(key)) for key, figure in sums.items()]


def _messages(observed: Observed, fixed: Attributes, _: set[int]) -> Figures:
    yield observed.queue_stats().messages, fixed


def _bytes(observed: Observed, fixed: Attributes, _: set[int]) -> Figures:
    yield observed.queue_stats().bytes, fixed


def _journal(observed: Observed, fixed: Attributes, _: set[int]) -> Figures:
    yield observed.queue_stats().journal_bytes, fixed


def _connections(observed: Observed, fixed: Attributes, seen: set[int]) -> Figures:
    named = fixed | {"db.client.connection.pool.name": _pool_name(fixed)}
    for pool in _pools(observed, seen):
        yield pool.in_use, named | {"db.client.connection.state": "used"}
        yield max(0, pool.size - pool.in_use), named | {"db.client.connection.state": "idle"}


def _requests(observed: Observed, fixed: Attributes, seen: set[int]) -> Figures:
    named = fixed | {"db.client.connection.pool.name": _pool_name(fixed)}
    for pool in _pools(observed, seen):
        yield pool.waiting, named


def _pools(observed: Observed, seen: set[int]) -> Iterator[PoolStats]:
    for pool in observed.pools():
        if pool.number not in seen:  # Databases share pools
            yield pool
            seen |= {pool.number} - {0}


def _pool_name(fixed: Attributes) -> str:
    """As the conventions make it of an address and a database."""
    port = f":{fixed['server.port']}" if "server.port" in fixed else ""
    return f"{fixed.get('server.address', '')}{port}/{fixed.get('db.namespace', '')}"


_OBSERVED = (
    ("agentstore.queue.messages", "{message}", "Messages and values that are under way to the backend", _messages),
    ("agentstore.queue.bytes", "By", "Their bytes", _bytes),
    ("agentstore.journal.bytes", "By", "Bytes of this process's journals on the disk", _journal),
    ("db.client.connection.count", "{connection}", "Connections, used or idle", _connections),
    ("db.client.connection.pending_requests", "{request}", "Callers that wait for a connection", _requests),
)
