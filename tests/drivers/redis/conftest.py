"""A store on the shared server, a backend on it, and a client that looks behind it."""

from contextlib import closing

import pytest
from redis_kit import Proxy, make, with_parts

from agentstore.url import StoreURL
from servers.redis import client


@pytest.fixture
def url(fresh):
    return fresh("redis")


@pytest.fixture
async def backend(url):
    backend = make(url)
    await backend.aopen()
    yield backend
    await backend.aclose()


@pytest.fixture
def raw(url):
    with closing(client(url.partition("?")[0])) as connection:
        yield connection


@pytest.fixture
async def proxy(url):
    async with Proxy(StoreURL.parse(url).hosts[0][1]) as proxy:
        yield proxy


@pytest.fixture
async def through(proxy, url):
    """A backend whose talk goes through the proxy, connected."""
    backend = make(with_parts(url, hosts=proxy.hosts))
    await backend.aopen()
    yield backend
    await backend.aclose()
