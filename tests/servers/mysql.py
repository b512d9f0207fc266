"""MariaDB, with TLS on the same port. (MySQL 8.4 is in compose.yaml.)"""

import dataclasses
from contextlib import closing
from typing import Any

import pymysql

from agentstore.url import StoreURL

from . import authority
from .base import HOST, LOGIN, PASSWORD, USER, Process, Server, find, free_port, give, run_once

ACCOUNT = "mysql"
RELAXED = ("--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--skip-innodb-doublewrite")


class MySQL(Server):
    """One server; `agentstore` may do everything."""

    kind = "mysql"
    needs = ("mariadbd", "mariadb-install-db")

    def prepare(self) -> list[Process]:
        folder = self.own_folder("mysql", ACCOUNT)
        data, start = folder / "data", folder / "start.sql"
        install = [find("mariadb-install-db", self.kind), "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        run_once([*install, "--auth-root-authentication-method=normal"], ACCOUNT, folder)
        start.write_text(
            f"CREATE USER IF NOT EXISTS '{USER}'@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL PRIVILEGES ON *.* TO '{USER}'@'%' WITH GRANT OPTION;\n"
        )
        give(start, ACCOUNT)
        ca, certificate, key = authority.copy_to(folder, ACCOUNT)
        port = free_port()
        self.url = self.tls_url = f"mysql://{LOGIN}@{HOST}:{port}/mysql"
        command = [
            *(find("mariadbd", self.kind), "--no-defaults", f"--datadir={data}", f"--init-file={start}"),
            *(f"--bind-address={HOST}", f"--port={port}", f"--socket={folder / 'socket'}"),
            *(f"--pid-file={folder / 'pid'}", "--skip-name-resolve", "--innodb-fast-shutdown=2"),
            *(f"--ssl-ca={ca}", f"--ssl-cert={certificate}", f"--ssl-key={key}", "--max-connections=400"),
            *(() if self.durable else RELAXED),
            *self.arguments,
        ]
        return [Process(folder, command, lambda: self.ping(self.url), account=ACCOUNT)]

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
