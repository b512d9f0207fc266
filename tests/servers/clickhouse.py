"""ClickHouse, by its native port. Debian's is 18.16; the current engine is in compose.yaml, and in chdb."""

import dataclasses
import socket
from typing import Any
from xml.sax.saxutils import escape

import asynch

from agentstore.url import StoreURL

from .base import HOST, LOGIN, PASSWORD, USER, Process, Server, find, free_port, wait_for

# The root element is `yandex` in old releases, which the new ones accept too.
_CONFIG = """<?xml version="1.0"?>
<yandex>
    <logger><level>warning</level><console>1</console></logger>
    <listen_host>{host}</listen_host>
    <tcp_port>{port}</tcp_port>
    <path>{folder}/data/</path>
    <tmp_path>{folder}/tmp/</tmp_path>
    <user_files_path>{folder}/files/</user_files_path>
    <format_schema_path>{folder}/schemas/</format_schema_path>
    <users_config>{folder}/users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <timezone>UTC</timezone>
    <mark_cache_size>268435456</mark_cache_size>
    <max_concurrent_queries>400</max_concurrent_queries>
</yandex>
"""
_USERS = """<?xml version="1.0"?>
<yandex>
    <profiles><default/></profiles>
    <quotas><default/></quotas>
    <users>
        <{user}>
            <password>{password}</password>
            <networks><ip>127.0.0.1</ip></networks>
            <profile>default</profile>
            <quota>default</quota>
        </{user}>
    </users>
</yandex>
"""


class ClickHouse(Server):
    """One server. It never waits for the disk, unless told to by settings of its own."""

    kind = "clickhouse"
    needs = ("clickhouse-server",)

    def prepare(self) -> list[Process]:
        folder = self.own_folder("clickhouse")
        port = free_port()
        self.url = f"clickhouse://{LOGIN}@{HOST}:{port}/default"
        (folder / "config.xml").write_text(_CONFIG.format(host=HOST, port=port, folder=folder))
        (folder / "users.xml").write_text(_USERS.format(user=USER, password=escape(PASSWORD)))
        command = [find("clickhouse-server", self.kind), f"--config-file={folder / 'config.xml'}", *self.arguments]

        def check() -> None:
            socket.create_connection((HOST, port)).close()  # asynch would log each attempt in vain
            self.ping(self.url)

        return [Process(folder, command, check)]

    @staticmethod
    def ping(url: str) -> None:
        execute(url, "SELECT 1")

    @staticmethod
    def create(url: str, name: str) -> str:
        execute(url, f"CREATE DATABASE {name}")
        return dataclasses.replace(StoreURL.parse(url), path=f"/{name}").secret

    @staticmethod
    def drop(url: str, name: str) -> None:
        execute(url, f"DROP DATABASE IF EXISTS {name}")


def execute(url: str, statement: str) -> Any:
    """Run one statement on a connection of its own; its rows."""
    return wait_for(_execute(StoreURL.parse(url), statement))


async def _execute(parts: StoreURL, statement: str) -> Any:
    host, port = parts.hosts[0]
    connection = asynch.connect(
        host=host,
        port=port or 9000,
        user=parts.username or "default",
        password=parts.password or "",
        database=parts.path.strip("/") or "default",
    )
    async with connection, connection.cursor() as cursor:
        await cursor.execute(statement)
        return await cursor.fetchall()
