"""What the errors of redis-py and of the servers mean here: the one map."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from redis import exceptions as theirs
from redis.asyncio.sentinel import MasterNotFoundError, SlaveNotFoundError

from agentstore.drivers.meaning import Meaning
from agentstore.errors import AgentstoreError, ConfigurationError, CorruptRecordError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_LOGIN = Meaning(
    ConfigurationError,
    "the server does not accept the user name or password",
    "Check them in the URL: special characters are percent-encoded (%40 for @); redis://:password@host has no user",
)
_RIGHTS = Meaning(
    ConfigurationError,
    "the user may not do this",
    "Grant it: ACL SETUSER name ~agentstore:* +@all -@dangerous +info",
)
_LOST = Meaning(
    UnavailableError,
    "the connection was lost; what was being written may be stored or not",
    "Try again: appending the same messages again stores them once",
)
_SLOW = Meaning(
    UnavailableError,
    "there was no answer in time; what was being written may be stored or not",
    "Is the server blocked by a slow command? Else raise PoolOptions.statement_timeout",
)
_UNOPENED = Meaning(
    UnavailableError,
    "no connection could be made",
    "Is the server running, and reachable from here? Does that port speak TLS (then write rediss: or tls=true)?",
)
_SPEECH = Meaning(
    ConfigurationError,
    "what answers there does not speak as Redis does",
    "Is it a TLS port? Then write rediss: or tls=true",
)
_LOADING = Meaning(UnavailableError, "the server is still loading its data", "Wait until it has")
_CLIENTS = Meaning(
    UnavailableError,
    "the server takes no more connections",
    "Raise its maxclients, or lower PoolOptions.size",
    answered=True,
)
_BUG = Meaning(AgentstoreError, "Redis was used wrongly", "This is a bug: please report it")
_KEYS = Meaning(
    CorruptRecordError,
    "a key holds what agentstore has not put there",
    "Does something else write keys with this prefix? The URL's option prefix chooses another",
)
_MOVING = Meaning(
    UnavailableError, "the cluster is being rearranged, or part of it is down", "Try again", answered=True
)
_REPLICA = Meaning(
    UnavailableError,
    "the server is a replica, which takes no writes",
    "Name the master, or redis+sentinel: to be led to it",
    answered=True,  # in passing where another is just becoming the master
)
_MASTER = Meaning(
    UnavailableError,
    "no sentinel knows a master of that name",
    "Check the service's name, and that the sentinels are reachable and see the master",
)
_NOT_CLUSTER = Meaning(
    ConfigurationError, "the server is one of a cluster", "Write redis+cluster://host:port,host:port"
)
_MEMORY = Meaning(
    UnavailableError,
    "the server's memory is full (maxmemory), and nothing was stored",
    "Raise maxmemory, or purge_expired() and delete what is no longer needed",
    passing=False,
)

BY_CODE: Mapping[str, Meaning] = {
    "BUSY": Meaning(
        UnavailableError, "the server is busy with somebody's script", "Wait, or SCRIPT KILL it", answered=True
    ),
    "CLUSTERDOWN": _MOVING,
    "CROSSSLOT": _BUG,
    "LOADING": _LOADING,
    "MASTERDOWN": _REPLICA,
    "MISCONF": Meaning(
        UnavailableError,
        "the server cannot write to its disk, and takes no writes",
        "Look at its disk and its log",
        passing=False,
    ),
    "NOAUTH": _LOGIN,
    "NOPERM": _RIGHTS,
    "NOREPLICAS": Meaning(
        UnavailableError,
        "too few replicas follow (min-replicas-to-write), so it takes no writes",
        "Look at them",
        answered=True,
    ),
    "OOM": _MEMORY,
    "READONLY": _REPLICA,
    "WRONGPASS": _LOGIN,
    "WRONGTYPE": _KEYS,
}
"""By the word that an error of the server begins with."""

BY_TEXT: Mapping[str, Meaning] = {
    "max number of clients reached": _CLIENTS,
    "DB index is out of range": Meaning(
        ConfigurationError, "there is no database of that number", "Write /0, or raise the server's `databases`"
    ),
    "SELECT is not allowed in cluster mode": _NOT_CLUSTER,
    "cluster support disabled": Meaning(
        ConfigurationError, "the server is not part of a cluster", "Write redis: instead of redis+cluster:"
    ),
    "unknown command": Meaning(
        ConfigurationError, "the server lacks a command", "agentstore needs Redis 6.2, Valkey 7.2 or newer"
    ),
    "AUTH <password> called without any password": _LOGIN,
    "without any password configured": _LOGIN,
}
"""By what stands in an error of the server."""

BY_TYPE: Mapping[type[Exception], Meaning] = {
    ssl.SSLCertVerificationError: Meaning(
        ConfigurationError,
        "the server's certificate is not to be trusted",
        "tls_ca names the file of its authority; the certificate must name the host as the URL does",
    ),
    ssl.SSLError: Meaning(
        ConfigurationError, "no TLS connection could be made", "Does the port speak TLS? Then check tls_cert, tls_key"
    ),
    socket.gaierror: Meaning(UnavailableError, "there is no host of that name", "Check the URL, and the name service"),
    ConnectionRefusedError: Meaning(UnavailableError, "nobody listens there", "Is the server running? On that port?"),
    FileNotFoundError: Meaning(
        ConfigurationError, "a file is not there", "Check the socket, or the options tls_ca, tls_cert, tls_key"
    ),
    PermissionError: Meaning(ConfigurationError, "a file may not be used", "Check the permissions of socket and keys"),
    theirs.AuthenticationWrongNumberOfArgsError: _LOGIN,
    theirs.AuthenticationError: _LOGIN,
    theirs.AuthorizationError: _RIGHTS,
    getattr(theirs, "ExternalAuthProviderError", theirs.AuthenticationError): _LOGIN,  # since redis-py 7
    theirs.NoPermissionError: _RIGHTS,
    theirs.BusyLoadingError: _LOADING,
    theirs.MaxConnectionsError: _CLIENTS,
    theirs.OutOfMemoryError: _MEMORY,
    theirs.ReadOnlyError: _REPLICA,
    theirs.MasterDownError: _REPLICA,
    theirs.MovedError: _NOT_CLUSTER,
    theirs.AskError: _MOVING,
    theirs.TryAgainError: _MOVING,
    theirs.ClusterDownError: _MOVING,
    theirs.ClusterCrossSlotError: _BUG,
    theirs.ClusterError: _MOVING,
    theirs.RedisClusterException: _MOVING,
    theirs.InvalidResponse: _SPEECH,
    theirs.TimeoutError: _SLOW,
    MasterNotFoundError: _MASTER,
    SlaveNotFoundError: _MASTER,
    theirs.ConnectionError: _LOST,
    theirs.ResponseError: Meaning(
        UnavailableError,
        "the server refused",
        "See what it says; agentstore needs Redis 6.2, Valkey 7.2 or newer",
        passing=False,
    ),
    theirs.RedisError: _BUG,
    TimeoutError: _SLOW,
    OSError: _LOST,
}
"""By class: the first that fits. The operating system's come first, for redis-py wraps them."""

RAISED = (theirs.RedisError, theirs.RedisClusterException, OSError)
"""What a call of redis-py may raise that `translated` takes."""


def translated(error: Exception, place: str, *, sent: bool = True) -> AgentstoreError:
    """The error of ours for one of `RAISED`, which is its cause.

    Args:
        error: What redis-py raised, or a server answered.
        place: Which server, for the message.
        sent: Whether anything was sent before it came.
    """
    meaning = _meaning(error)
    if not sent and meaning in (_LOST, _SLOW):
        meaning = _UNOPENED
    ours = meaning.told(place, _words(error), unsent=not sent)
    ours.__cause__ = error
    return ours


def passes(error: Exception) -> bool:
    """Whether it may be another matter in a moment."""
    return issubclass(_meaning(error).error, UnavailableError)


def _meaning(error: Exception) -> Meaning:
    text = str(error)
    for words, meaning in BY_TEXT.items():
        if words in text:
            return meaning
    word = text.partition(" ")[0]
    if isinstance(error, theirs.ResponseError) and word in BY_CODE:
        return BY_CODE[word]
    for kind, meaning in BY_TYPE.items():
        if any(isinstance(each, kind) for each in _chain(error)):
            return meaning
    return _BUG


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised for."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
