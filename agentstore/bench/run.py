"""Runs workloads on stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentstore.database import db
from agentstore.errors import ConfigurationError
from agentstore.url import StoreURL

from . import raw
from .kit import opened
from .measure import compare
from .results import Result
from .workloads import SWEEPS, WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .kit import Kit, Options
    from .measure import Watch


def _by_hand(workload: str, options: Options) -> bool:
    """Whether the bare driver has a part in it; by hand nothing is deferred."""
    return options.raw and (WORKLOADS | SWEEPS)[workload].by_hand and options.durability == "commit"


def check(urls: Iterable[str], workloads: Iterable[str], options: Options) -> None:
    """Complain now of what could only fail later.

    Raises:
        ConfigurationError: A URL is wrong, or the bare driver is asked for and there is none.
    """
    by_hand = any(_by_hand(workload, options) for workload in workloads)
    for url in urls:
        db(url, url)
        if by_hand:
            _check_hand(StoreURL.parse(url))


def _check_hand(url: StoreURL) -> None:
    if url.is_ephemeral:
        raise ConfigurationError(f"{url} is in the memory of this process: it has no raw counterpart to compare with")
    raw.load(url)


async def run(url: str, workload: str, options: Options, watch: Watch) -> Result:
    """Measure a workload on a store, and leave the store as it was.

    Args:
        url: Which store.
        workload: A name of `WORKLOADS` or `SWEEPS`.
        options: How to measure.
        watch: Is told what is going on.

    Raises:
        ConfigurationError: The store is not empty, or the bare driver is asked for and there is none.
        AgentstoreError: The store cannot be used, or something acknowledged was not there.
    """
    cases = (WORKLOADS | SWEEPS)[workload].cases
    async with opened(url, options, watch, by_hand=_by_hand(workload, options)) as kit:
        comparisons = [await compare(case, options.repeats, options.seconds, watch) async for case in cases(kit)]
        return Result(workload, str(StoreURL.parse(url)), _settings(kit), kit.findings, comparisons)


def _settings(kit: Kit) -> dict[str, str]:
    return {
        "durability": kit.options.durability,
        "pool": f"at most {kit.pool.size} connections",
        "repeats": str(kit.options.repeats),
        "longest sample": f"{kit.options.seconds:g} s",
    }
