"""The contract holds with a replica too: whatever a test writes it reads back, from wherever it comes."""

import dataclasses
import uuid

import pytest

import servers
from agentstore.testing import StoreContract
from agentstore.url import StoreURL


class Replicated(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls):
        with servers.private_server(cls.kind) as server:
            yield server

    @pytest.fixture
    def urls(self, server):
        option = {self.option: f"test_{uuid.uuid4().hex}"}
        both = server.url, server.server.replica_url
        return [dataclasses.replace(StoreURL.parse(url), options=option).secret for url in both]

    @pytest.fixture
    def database_url(self, urls):
        return urls[0]

    @pytest.fixture
    def options(self, urls):
        return {"replicas": [urls[1]]}


class TestPostgreSQL(Replicated):
    kind, option = "postgresql-replicated", "schema"


class TestRedis(Replicated):
    kind, option = "redis-replicated", "prefix"
