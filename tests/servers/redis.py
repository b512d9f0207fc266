"""Redis: one with a TLS port, one with a replica, a cluster of three masters, and one with replica and sentinel."""

import dataclasses
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry

from agentstore.url import StoreURL

from . import authority
from .base import HOST, PASSWORD, Process, Server, ServerError, find, free_port

LOGIN = ":" + quote(PASSWORD, safe="")
MASTER = "mymaster"
SLOTS = 16_384


class Redis(Server):
    """One server, for the user "default"."""

    kind = "redis"
    needs = ("redis-server",)

    def prepare(self) -> list[Process]:
        folder = self.own_folder("redis")
        ca, certificate, key = authority.copy_to(folder, "")
        port, tls_port = free_port(), free_port()
        self.url = f"redis://{LOGIN}@{HOST}:{port}/0"
        self.tls_url = f"rediss://{LOGIN}@{HOST}:{tls_port}/0"
        tls = ("--tls-port", str(tls_port), "--tls-auth-clients", "no", "--tls-ca-cert-file", ca)
        command = [
            *self.command(folder, port),
            *(*tls, "--tls-cert-file", certificate, "--tls-key-file", key, "--unixsocket", str(folder / "socket")),
        ]
        return [Process(folder, command, lambda: self.ping(self.url))]

    def command(self, folder: Path, port: int, *more: str) -> list[str]:
        """What all of them are started with. Every write is in the log before it is answered: `kill -9` loses none."""
        return [
            *(find("redis-server", self.kind), "--bind", HOST, "--port", str(port), "--dir", str(folder)),
            *("--requirepass", PASSWORD, "--masterauth", PASSWORD, "--save", "", "--appendonly", "yes"),
            *("--appendfsync", "everysec" if self.durable else "no"),
            *more,
            *self.arguments,
        ]

    @staticmethod
    def ping(url: str) -> None:
        with closing(client(url)) as connection:
            connection.ping()

    @staticmethod
    def create(url: str, name: str) -> str:
        parts = StoreURL.parse(url)
        return dataclasses.replace(parts, options={**parts.options, "prefix": name}).secret

    @staticmethod
    def drop(url: str, name: str) -> None:
        with closing(client(url)) as connection:
            for key in connection.scan_iter(match=f"*{name}*", count=1000):
                connection.unlink(key)


class Replicated(Redis):
    """A master, and a replica at `replica_url`; processes in this order."""

    kind = "redis-replicated"

    def prepare(self) -> list[Process]:
        ports = free_port(), free_port()
        self.url, self.replica_url = (f"redis://{LOGIN}@{HOST}:{port}/0" for port in ports)
        lead, follow = ("--repl-diskless-sync-delay", "0"), ("--replicaof", f"{HOST} {ports[0]}")
        folders = self.own_folder("redis-master"), self.own_folder("redis-replica")
        return [
            Process(folders[0], self.command(folders[0], ports[0], *lead), lambda: _answers(ports[0])),
            Process(folders[1], self.command(folders[1], ports[1], *follow), lambda: _answers(ports[1])),
        ]

    def settle(self) -> None:
        _follows(StoreURL.parse(self.replica_url).hosts[0][1])


class Cluster(Redis):
    """Three masters, a third of the slots each."""

    kind = "redis-cluster"
    _joined = False

    def prepare(self) -> list[Process]:
        self._ports = [free_port() for _ in range(3)]
        self.url = f"redis+cluster://{LOGIN}@" + ",".join(f"{HOST}:{port}" for port in self._ports)
        return [self._node(number, port) for number, port in enumerate(self._ports)]

    def _node(self, number: int, port: int) -> Process:
        folder = self.own_folder(f"redis-cluster-{number}")
        cluster = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()), "--cluster-node-timeout", "2000")
        return Process(folder, self.command(folder, port, *cluster), lambda: _answers(port))

    def settle(self) -> None:
        if not self._joined:
            self._join()
        for port in self._ports:
            with closing(node(port)) as connection:
                info = connection.cluster("INFO")
            if (info["cluster_state"], info["cluster_known_nodes"]) != ("ok", "3"):
                raise ServerError(f"the cluster is not complete yet: {info}")

    def _join(self) -> None:
        bounds = [number * SLOTS // len(self._ports) for number in range(len(self._ports) + 1)]
        for number, port in enumerate(self._ports):
            with closing(node(port)) as connection:
                connection.execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
                connection.execute_command("CLUSTER ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
                other = self.processes[0].command
                bus = other[other.index("--cluster-port") + 1]
                connection.execute_command("CLUSTER MEET", HOST, self._ports[0], bus)
        self._joined = True


class Sentinel(Redis):
    """A master, a replica, and a sentinel that makes the one the other within seconds."""

    kind = "redis-sentinel"

    def prepare(self) -> list[Process]:
        master, replica, self._port = free_port(), free_port(), free_port()
        self.url = f"redis+sentinel://{LOGIN}@{HOST}:{self._port}/{MASTER}"
        folders = [self.own_folder(f"redis-sentinel-{name}") for name in ("master", "replica", "sentinel")]
        settings = folders[2] / "sentinel.conf"
        settings.write_text(f"""
            sentinel monitor {MASTER} {HOST} {master} 1
            sentinel auth-pass {MASTER} {PASSWORD}
            sentinel down-after-milliseconds {MASTER} 1000
            sentinel failover-timeout {MASTER} 5000
        """)
        program = find("redis-server", self.kind)
        watch = [program, str(settings), "--sentinel", "--bind", HOST, "--port", str(self._port)]
        lead, follow = ("--repl-diskless-sync-delay", "0"), ("--replicaof", f"{HOST} {master}")
        return [
            Process(folders[0], self.command(folders[0], master, *lead), lambda: _answers(master)),
            Process(folders[1], self.command(folders[1], replica, *follow), lambda: _follows(replica)),
            Process(folders[2], watch, lambda: _answers(self._port, None)),
        ]

    def settle(self) -> None:
        self.ping(self.url)
        if not redis.Sentinel([(HOST, self._port)]).discover_slaves(MASTER):
            raise ServerError("the sentinel has not seen the replica yet")


def client(url: str) -> redis.Redis | RedisCluster:
    """A client for any of the URLs, that does not try again."""
    parts = StoreURL.parse(url)
    retry = Retry(NoBackoff(), 0)
    if parts.scheme == "redis+cluster":
        nodes = [ClusterNode(host, port or 6379) for host, port in parts.hosts]
        return RedisCluster(startup_nodes=nodes, username=parts.username or None, password=parts.password)
    if parts.scheme == "redis+sentinel":
        sentinel = redis.Sentinel([(host, port or 26379) for host, port in parts.hosts])
        return sentinel.master_for(parts.path.strip("/").partition("/")[0], password=parts.password, retry=retry)
    return redis.Redis.from_url(url, retry=retry)


def node(port: int, password: str | None = PASSWORD) -> redis.Redis:
    return redis.Redis(host=HOST, port=port, password=password, retry=Retry(NoBackoff(), 0))


def _answers(port: int, password: str | None = PASSWORD) -> None:
    with closing(node(port, password)) as connection:
        connection.ping()


def _follows(port: int) -> None:
    with closing(node(port)) as connection:
        replication = connection.info("replication")
    if replication["role"] == "slave" and replication["master_link_status"] != "up":
        raise ServerError("the replica has no master yet")
