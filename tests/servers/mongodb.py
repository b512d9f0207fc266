"""What answers MongoDB's wire protocol here: NX-27017 of PyPI, over SQLite. MongoDB itself is in compose.yaml.

It cannot prove what only MongoDB does: unique indexes over arrays, replica sets, transactions, the 16 MB limit.
"""

import dataclasses
import importlib.util
import sys

import pymongo

from agentstore.url import StoreURL

from .base import HOST, Process, Server, ServerError, free_port, variable


class MongoDB(Server):
    """One server, without passwords; each database is a file."""

    kind = "mongodb"
    needs = ()

    def prepare(self) -> list[Process]:
        if importlib.util.find_spec("nx_27017") is None:
            raise ServerError(
                "nx-27017 is not installed, and mongodb needs it: pip install -e '.[dev]', or set "
                f"${variable(self.kind)} to the URL of a running server"
            )
        folder = self.own_folder("mongodb")
        port = free_port()
        self.url = f"mongodb://{HOST}:{port}/test"
        command = [
            *(sys.executable, "-c", "import sys; from nx_27017.nx_27017 import main; sys.exit(main())"),
            *("--host", HOST, "--port", str(port), "--data-dir", str(folder / "data")),
            *("--pid-file", str(folder / "pid"), "--log-file", str(folder / "server.log")),
            *self.arguments,
        ]
        (folder / "data").mkdir()
        return [Process(folder, command, lambda: self.ping(self.url))]

    @staticmethod
    def ping(url: str) -> None:
        with _client(url) as client:
            client.admin.command("ping")

    @staticmethod
    def create(url: str, name: str) -> str:
        return dataclasses.replace(StoreURL.parse(url), path=f"/{name}").secret  # the first write makes it

    @staticmethod
    def drop(url: str, name: str) -> None:
        with _client(url) as client:
            client.drop_database(name)


def _client(url: str) -> pymongo.MongoClient:
    return pymongo.MongoClient(url, serverSelectionTimeoutMS=1000)
