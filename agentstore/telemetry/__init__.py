"""Metrics and traces by OpenTelemetry, for programs that record them: the extra ``otel``.

Nothing here is imported, and nothing called, for a program that has not set up OpenTelemetry itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanContext, TracerProvider

    from agentstore.stats import PoolStats, QueueStats
    from agentstore.url import StoreURL

    from .watch import Watch

Caller: TypeAlias = "SpanContext | None"
"""The span in which a write was handed in."""


class Observed(Protocol):
    """What can be asked how it is, at any moment and from any thread."""

    def queue_stats(self) -> QueueStats:
        """What is under way."""

    def pools(self) -> Sequence[PoolStats]:
        """The connection pools in use."""


def find(url: StoreURL, observed: Observed) -> Watch | None:
    """Who tells OpenTelemetry about a backend; None unless the program records.

    Args:
        url: Where the backend is.
        observed: Is asked for figures until `Watch.close`, or until nobody else holds it.
    """
    providers = recording()
    if providers is None:
        return None
    from .watch import Watch  # noqa: PLC0415  it imports OpenTelemetry

    return Watch(url, observed, *providers)


def recording() -> tuple[TracerProvider, MeterProvider] | None:
    """The providers of the process; None unless one of them records.

    Whoever has set one up has imported OpenTelemetry, so that nobody else pays for the import (40 ms).
    """
    if not any(sys.modules.get(f"opentelemetry.{part}") for part in ("trace", "metrics")):
        return None
    from opentelemetry import metrics, trace  # noqa: PLC0415  see above

    providers = trace.get_tracer_provider(), metrics.get_meter_provider()
    return providers if any(map(_records, providers)) else None


def _records(provider: object) -> bool:
    """Not one of the API's own, which stand where nothing was set up."""
    return not type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
