"""MariaDB, with TLS on the same port; and one with a replica. (MySQL 8.4 is in compose.yaml.)"""

import dataclasses
from contextlib import closing
from typing import Any

import pymysql

from agentstore.url import StoreURL

from . import authority
from .base import HOST, LOGIN, PASSWORD, USER, Process, Server, ServerError, find, free_port, give, run_once

ACCOUNT = "mysql"
RELAXED = ("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite")


class MySQL(Server):
    """One server; `agentstore` may do everything."""

    kind = "mysql"
    needs = ("mariadbd", "mariadb-install-db")

    def prepare(self) -> list[Process]:
        port = free_port()
        self.url = self.tls_url = f"mysql://{LOGIN}@{HOST}:{port}/mysql"
        return [self.process("mysql", port)]

    def process(self, name: str, port: int, *more: str) -> Process:
        """One with a folder of that name; `more` is added to its command line."""
        folder = self.own_folder(name, ACCOUNT)
        data, start = folder / "data", folder / "start.sql"
        install = [find("mariadb-install-db", self.kind), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        run_once([*install, "--auth-root-authentication-method=normal"], ACCOUNT, folder)
        start.write_text(
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        )
        give(start, ACCOUNT)
        ca, certificate, key = authority.copy_to(folder, ACCOUNT)
        command = [
            *(find("mariadbd", self.kind), "--no-defaults", f"--datadir={data}", f"--init-file={start}"),
            *(f"--bind-address={HOST}", f"--port={port}", f"--socket={folder / 'socket'}"),
            *(f"--pid-file={folder / 'pid'}", "--skip-name-resolve", "--innodb-fast-shutdown=2"),
            *(f"--ssl-ca={ca}", f"--ssl-cert={certificate}", f"--ssl-key={key}", "--max-connections=400"),
            *(() if self.durable else RELAXED),
            *more,
            *self.arguments,
        ]
        url = f"mysql://{LOGIN}@{HOST}:{port}/mysql"
        return Process(folder, command, lambda: self.ping(url), account=ACCOUNT)

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


class Replicated(MySQL):
    """A primary that writes a binary log, and a replica at `replica_url`; processes in this order."""

    kind = "mysql-replicated"
    _following = False

    def prepare(self) -> list[Process]:
        self._port, port = free_port(), free_port()
        self.url, self.replica_url = (f"mysql://{LOGIN}@{HOST}:{each}/mysql" for each in (self._port, port))
        return [
            self.process("mysql-primary", self._port, "--server-id=1", "--log-bin=log", "--binlog-format=row"),
            self.process("mysql-replica", port, "--server-id=2", "--read-only"),
        ]

    def settle(self) -> None:
        if not self._following:
            execute(
                self.replica_url,
                f"CHANGE MASTER TO master_host='{HOST}', master_port={self._port}, master_user='{USER}', "
                f"master_password='{PASSWORD}', master_use_gtid=slave_pos, master_connect_retry=1",
            )
            execute(self.replica_url, "START SLAVE")
            self._following = True
        here = execute(self.url, "SELECT @@gtid_binlog_pos")
        there = execute(self.replica_url, "SELECT @@gtid_slave_pos")
        if here != there:
            raise ServerError(f"the replica has come to {there}, the primary to {here}")


def execute(url: str, statement: str) -> Any:
    """Run one statement on a connection of its own; the first value of its first row."""
    parts = StoreURL.parse(url)
    host, port = parts.hosts[0]
    connection = pymysql.connect(
        host=host,
        port=port or 3306,
        user=parts.username,
        password=parts.password or "",
        database=parts.path.strip("/") or None,
        connect_timeout=10,
        ssl_disabled=host == HOST,  # TLS takes 25 ms
    )
    with closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone()
        return row[0] if row else None
