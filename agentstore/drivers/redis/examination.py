"""What an operator should know of a Redis, for ``agentstore doctor``."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING

from agentstore.errors import AgentstoreError
from agentstore.findings import Finding
from agentstore.records import utcnow

from .client import Command
from .opening import LAYOUT, facts
from .wire import TIME, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentstore.options import PoolOptions

_SKEW = timedelta(seconds=1)
_OLDEST = (6, 2)
_SETTINGS = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "maxclients", "min-replicas-to-write")
_TOLD = {"maxmemory": "maxmemory", "maxmemory-policy": "maxmemory_policy", "maxclients": "maxclients"}


async def examine(wire: Wire, pool: PoolOptions) -> list[Finding]:
    """What there is to find, each server by itself; what the user may not ask is said to be unknown."""
    findings = [*await _time(wire), Finding("schema", f"layout {LAYOUT}, prefix {wire.keys.prefix}"), _tls(wire)]
    told = await wire.everywhere("INFO")
    settings = await _settings(wire)
    if len(told) > 1:
        findings.append(Finding("server", f"a cluster of {len(told)} masters"))
    for address, info in told:
        where = f" of {address}" if len(told) > 1 else ""
        if isinstance(info, AgentstoreError):
            findings.append(_unknown(f"server{where}", "INFO"))
            continue
        known, config = facts(info), settings[address]
        findings += _server(known, where)
        findings += _durability(known, config, where)
        findings += _memory(known | {_TOLD[k]: v for k, v in config.items() if k in _TOLD}, where)
        findings += _connections(known | config, pool, where)
        findings += _replicas(known, config, where)
        if not config:
            findings.append(_unknown(f"settings{where}", "CONFIG GET"))
    return findings


async def _time(wire: Wire) -> list[Finding]:
    before = utcnow()
    (answer,) = await wire.ask(Command(wire.keys.schema, TIME))
    after, there = utcnow(), wire.time_of(answer)
    skew = max(before - there, there - after, timedelta(0))
    value = f"differs by {skew.total_seconds():.3f} s from this machine's"
    if skew <= _SKEW:
        return [Finding("clock", value)]
    return [Finding("clock", value, "warning", "Let both machines follow a time server (NTP)")]


def _tls(wire: Wire) -> Finding:
    tls = wire.place.tls
    if tls is None:
        return Finding("encryption", "none")
    if tls.verify:
        return Finding("encryption", "TLS, the server's certificate is verified")
    return Finding(
        "encryption", "TLS, unverified", "warning", "Leave tls_verify=false out, and name the authority with tls_ca"
    )


def _server(known: Mapping[str, str], where: str) -> Iterator[Finding]:
    name, number = "Redis", known.get("redis_version", "")
    if "valkey_version" in known:
        name, number = "Valkey", known["valkey_version"]
    elif "mvcc_depth" in known or "keydb" in known.get("executable", ""):
        name = "KeyDB"
    value = f"{name} {number}, {known.get('redis_mode', 'unknown mode')}, {known.get('role', 'unknown role')}"
    parts = tuple(int(part) for part in known.get("redis_version", "0").split(".")[:2] if part.isdigit())
    if parts < _OLDEST:
        yield Finding(f"server{where}", value, "unfit", "agentstore needs Redis 6.2, Valkey 7.2 or newer")
    else:
        yield Finding(f"server{where}", value)


def _durability(known: Mapping[str, str], config: Mapping[str, str], where: str) -> Iterator[Finding]:
    """What "commit" means there."""
    subject = f"durability{where}"
    if known.get("aof_enabled") != "1":
        yield Finding(
            subject,
            "no append-only file: a crash loses all since the last snapshot",
            "warning",
            "Set appendonly yes, and appendfsync always where nothing acknowledged may be lost",
        )
    elif known.get("aof_last_write_status", "ok") != "ok":
        yield Finding(subject, "the append-only file cannot be written", "unfit", "Look at the server's disk and log")
    else:
        fsync = config.get("appendfsync", "unknown")
        value = f"append-only file, appendfsync {fsync}"
        if fsync == "always":
            yield Finding(subject, value)
        else:
            loses = {"everysec": "up to about a second", "no": "some 30 seconds"}.get(fsync, "perhaps some")
            advice = f"A crash of the machine loses {loses} of acknowledged writes; appendfsync always loses none"
            yield Finding(subject, value, "warning", advice)


def _memory(known: Mapping[str, str], where: str) -> Iterator[Finding]:
    policy, most = known.get("maxmemory_policy", "unknown"), known.get("maxmemory", "0")
    value = f"maxmemory {'unlimited' if most == '0' else most}, {policy}"
    subject = f"memory{where}"
    if policy.startswith("allkeys-"):
        advice = "It throws conversations away when memory is full: set maxmemory-policy noeviction"
        yield Finding(subject, value, "unfit", advice)
    elif policy.startswith("volatile-"):
        advice = "It throws away what has a TTL, before its time, when memory is full: set maxmemory-policy noeviction"
        yield Finding(subject, value, "warning", advice)
    else:
        yield Finding(subject, value)


def _connections(known: Mapping[str, str], pool: PoolOptions, where: str) -> Iterator[Finding]:
    most, now = known.get("maxclients"), known.get("connected_clients", "unknown")
    if most is None or not most.isdigit():
        return
    value = f"{now} of {most}; each event loop here opens up to {pool.size}"
    if int(most) < pool.size:
        yield Finding(f"connections{where}", value, "unfit", "Raise maxclients, or lower PoolOptions.size")
    elif now.isdigit() and int(now) + pool.size > int(most):
        yield Finding(f"connections{where}", value, "warning", "Raise maxclients, or lower PoolOptions.size")
    else:
        yield Finding(f"connections{where}", value)


def _replicas(known: Mapping[str, str], config: Mapping[str, str], where: str) -> Iterator[Finding]:
    if known.get("role") not in {"master", None}:
        yield Finding(f"role{where}", "a replica, which takes no writes", "unfit", "Name the master")
        return
    count = known.get("connected_slaves", "0")
    if count == "0":
        yield Finding(f"replicas{where}", "none")
        return
    least = config.get("min-replicas-to-write", "unknown")
    advice = (
        "Replication is asynchronous: a failover loses what had not arrived. min-replicas-to-write 1 bounds how much"
        if least in {"0", "unknown"}
        else None
    )
    value = f"{count}, min-replicas-to-write {least}"
    yield Finding(f"replicas{where}", value, "warning" if advice else "ok", advice)


def _unknown(subject: str, command: str) -> Finding:
    return Finding(subject, f"unknown: the user may not {command}", "warning", f"Grant the user {command} to know more")


async def _settings(wire: Wire) -> defaultdict[str, dict[str, str]]:
    """What each server says of `_SETTINGS`; one by one, for before 7.0 no server takes several."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for name in _SETTINGS:
        for address, answer in await wire.everywhere("CONFIG", "GET", name):
            if not isinstance(answer, AgentstoreError) and answer:
                found[address][name] = answer[1].decode(errors="replace")
    return found
