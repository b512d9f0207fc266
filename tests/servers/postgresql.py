"""PostgreSQL, with TLS on the same port; one with a standby; one behind PgBouncer in transaction mode."""

import dataclasses
import shlex
import signal
from pathlib import Path
from typing import Any

import asyncpg

from agentstore.url import StoreURL

from . import authority
from .base import HOST, LOGIN, PASSWORD, USER, Process, Server, find, free_port, give, run_once, wait_for

ACCOUNT = "postgres"
RELAXED = ("-c", "fsync=off", "-c", "full_page_writes=off")


class PostgreSQL(Server):
    """One server; `agentstore` is its superuser."""

    kind = "postgresql"
    needs = ("postgres", "initdb")

    def prepare(self) -> list[Process]:
        folder = self.own_folder(f"{self.kind}-server", ACCOUNT)
        password = folder / "password"
        password.write_text(PASSWORD)
        give(password, ACCOUNT)
        run_once(
            [
                *(find("initdb", self.kind), "-D", str(folder / "data"), "-U", USER, f"--pwfile={password}"),
                *("-A", "scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            ACCOUNT,
            folder,
        )
        port = free_port()
        self.url = self.tls_url = f"postgresql://{LOGIN}@{HOST}:{port}/postgres"
        return [self.process(folder, port, find("postgres", self.kind))]

    def process(self, folder: Path, port: int, *program: str) -> Process:
        """One that serves the data in a folder; `program` is what starts ``postgres``."""
        ca, certificate, key = authority.copy_to(folder, ACCOUNT)
        url = f"postgresql://{LOGIN}@{HOST}:{port}/postgres"
        settings = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": folder,
            "dynamic_shared_memory_type": "mmap",  # in the data folder, so that nothing is left behind by a kill
            "ssl": "on",
            "ssl_ca_file": ca,
            "ssl_cert_file": certificate,
            "ssl_key_file": key,
            "log_checkpoints": "off",
        }
        return Process(
            folder,
            [
                *(*program, "-D", str(folder / "data")),
                *(part for name, value in settings.items() for part in ("-c", f"{name}={value}")),
                *(() if self.durable else RELAXED),
                *self.arguments,
            ],
            lambda: self.ping(url),
            account=ACCOUNT,
            stop=signal.SIGINT,
            discard=signal.SIGQUIT,  # it has shared memory to remove
        )

    @staticmethod
    def ping(url: str) -> None:
        execute(url, "SELECT 1")

    @staticmethod
    def create(url: str, name: str) -> str:
        # FILE_COPY takes half the time of the default; template0 can be copied by many at once
        execute(url, f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY FILE_COPY")
        return dataclasses.replace(StoreURL.parse(url), path=f"/{name}").secret

    @staticmethod
    def drop(url: str, name: str) -> None:
        execute(url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


class Replicated(PostgreSQL):
    """A primary and a standby that streams from it, at `replica_url`; processes in this order."""

    kind = "postgresql-replicated"
    needs = (*PostgreSQL.needs, "pg_basebackup")

    def prepare(self) -> list[Process]:
        (primary,) = super().prepare()
        folder, port = self.own_folder(f"{self.kind}-standby", ACCOUNT), free_port()
        self.replica_url = f"postgresql://{LOGIN}@{HOST}:{port}/postgres"
        copy = [find("pg_basebackup", self.kind), "-d", self.url, "-D", str(folder / "data"), "-R", "-c", "fast"]
        script = f'test -e data/PG_VERSION || {shlex.join(copy)} && exec {find("postgres", self.kind)} "$@"'
        return [primary, self.process(folder, port, "/bin/sh", "-c", script, "sh")]


class PgBouncer(PostgreSQL):
    """Any database of a PostgreSQL of its own."""

    kind = "pgbouncer"
    needs = ("pgbouncer", *PostgreSQL.needs)

    def prepare(self) -> list[Process]:
        (postgres,) = super().prepare()
        behind = StoreURL.parse(self.url).hosts[0][1]
        folder = self.own_folder(self.kind, ACCOUNT)
        port = free_port()
        self.url, self.tls_url = f"postgresql://{LOGIN}@{HOST}:{port}/postgres", ""
        users, settings = folder / "users", folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        settings.write_text(f"""
            [databases]
            * = host={HOST} port={behind}
            [pgbouncer]
            listen_addr = {HOST}
            listen_port = {port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {users}
            pool_mode = transaction
            default_pool_size = 10
            max_client_conn = 1000
            server_login_retry = 0.1
            query_wait_timeout = 30
        """)
        for path in (users, settings):
            give(path, ACCOUNT)
        command = [find("pgbouncer", self.kind), str(settings)]
        return [postgres, Process(folder, command, lambda: self.ping(self.url), account=ACCOUNT, stop=signal.SIGINT)]


def execute(url: str, statement: str) -> Any:
    """Run one statement on a connection of its own; its first value."""
    parts = StoreURL.parse(url)
    return wait_for(_execute(parts, statement))


async def _execute(parts: StoreURL, statement: str) -> Any:
    connection = await asyncpg.connect(
        host=[host for host, _ in parts.hosts],
        port=[port or 5432 for _, port in parts.hosts],
        user=parts.username,
        password=parts.password,
        database=Path(parts.path).name or None,
        statement_cache_size=0,  # PgBouncer gives each transaction another connection
        ssl=None if parts.hosts[0][0] != HOST else False,  # on this machine TLS only takes time
        timeout=10,
    )
    try:
        return await connection.fetchval(statement, timeout=60)
    finally:
        await connection.close()
