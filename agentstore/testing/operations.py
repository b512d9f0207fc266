"""What an operator is promised: `Store.examine` and `Store.pools`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import pytest

from agentstore.drivers import registry
from agentstore.errors import ClosedError
from agentstore.findings import Finding, Level
from agentstore.options import PoolOptions
from agentstore.protocol import Append
from agentstore.stats import PoolStats
from agentstore.url import StoreURL

from .common import Contract, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentstore.protocol import Backend


_BY_CHANCE = 7  # characters of a password that any text may hold


class OperationContract(Contract):
    """Findings and figures: of any store, and sane."""

    @pytest.fixture
    async def backend(self, database_url: str) -> AsyncIterator[Backend]:
        """The driver itself, open."""
        backend = registry.load(StoreURL.parse(database_url), PoolOptions(size=3))
        await backend.aopen()
        yield backend
        await backend.aclose()

    async def test_what_examine_finds(self, backend: Backend, database_url: str) -> None:
        for _ in range(2):  # empty, then in use
            findings = await backend.examine()
            _check_texts(findings)
            subjects = [finding.subject for finding in findings]
            assert "server" in subjects, "what it is"
            assert len(set(subjects)) == len(subjects), subjects
            assert [finding for finding in findings if finding.level == "unfit"] == []
            assert [f for f in findings if f.level != "ok" and f.advice is None] == [], "say what to do"
            password = StoreURL.parse(database_url).password
            if password and len(password) > _BY_CHANCE:
                assert password not in json.dumps([finding.to_dict() for finding in findings], ensure_ascii=False)
            (outcome,) = await backend.append([Append("s", (say(),))])
            assert isinstance(outcome, list)

    async def test_a_closed_store_is_not_examined(self, backend: Backend) -> None:
        await backend.aclose()
        with pytest.raises(ClosedError):
            await backend.examine()

    async def test_the_figures_of_pools(self, backend: Backend) -> None:
        await backend.ping()
        pools = backend.pools()
        assert isinstance(pools, Sequence)
        for pool in pools:
            assert isinstance(pool, PoolStats)
            assert 0 <= pool.in_use <= 3
            assert (pool.in_use, pool.waiting) == (0, 0), "nobody is at work"
        await backend.aclose()
        assert list(backend.pools()) == []


def _check_texts(findings: list[Finding]) -> None:
    assert isinstance(findings, list)
    for finding in findings:
        assert isinstance(finding, Finding)
        assert finding.level in get_args(Level)
        for text in (finding.subject, finding.value, "-" if finding.advice is None else finding.advice):
            assert text.strip(), finding
            assert text.isprintable(), f"one line: {finding}"
