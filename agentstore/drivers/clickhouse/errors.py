"""What the errors of the server, of asynch and of the network mean here: the one map."""

from __future__ import annotations

import ssl
import struct
from typing import TYPE_CHECKING

from asynch import errors as asynch
from asynch.errors import ServerException

from agentstore.drivers.meaning import Meaning
from agentstore.errors import (
    AgentstoreError,
    ConfigurationError,
    CorruptRecordError,
    InvalidInputError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_LOGIN = Meaning(
    ConfigurationError,
    "the server does not accept this user and password from here",
    "Correct them in the database URL (percent-encoded: %40 for @), and the networks that the user may come from",
)
_DATABASE = Meaning(
    ConfigurationError,
    "there is no such database, or this user may not use it",
    "CREATE DATABASE it, or correct the name in the database URL",
)
_RIGHTS = Meaning(
    ConfigurationError,
    "this user lacks a right that agentstore needs",
    "GRANT SELECT, INSERT, CREATE TABLE, CREATE VIEW on the database to the user, and let its profile not be readonly",
)
_TLS = Meaning(
    ConfigurationError,
    "no TLS connection that fits the settings could be made",
    "clickhouses: is for the server's tcp_port_secure, clickhouse: for its tcp_port; ca_certs names whom to trust",
)
_PROTOCOL = Meaning(
    ConfigurationError,
    "what answers there does not speak ClickHouse's native protocol, or not without TLS",
    "Give the port of tcp_port (9000), or clickhouses: and that of tcp_port_secure (9440); 8123 is HTTP",
)
_REACH = Meaning(UnavailableError, "the server cannot be reached", "Is it running, and reachable from here?")
_LOST = Meaning(
    UnavailableError,
    "the connection was lost: what was being written may be stored or not",
    "Try again: message ids keep an append from being stored twice",
)
_SLOW = Meaning(
    UnavailableError,
    "no answer came in time: what was being written may be stored or not",
    "Try again; look for what keeps the server busy, or raise PoolOptions.statement_timeout",
)
_CROWDED = Meaning(
    UnavailableError,
    "the server carries out no more queries now",
    "Raise its max_concurrent_queries, or lower PoolOptions.size",
    answered=True,
)
_PARTS = Meaning(
    UnavailableError,
    "the server is behind with merging: too many parts",
    "Try again. Let one process serve many callers, whose writes then share an INSERT; or give the server faster disks",
    answered=True,
)
_ENDING = Meaning(
    UnavailableError, "the server is shutting down, or its table is read-only now", "Try again", answered=True
)
_ROOM = Meaning(UnavailableError, "the server has no room left", "Make room on its disk, then try again", passing=False)
_MEMORY = Meaning(
    UnavailableError,
    "the server has not enough memory for this",
    "Raise its max_memory_usage, or read in pages",
    passing=False,
)
_QUOTA = Meaning(UnavailableError, "the user's quota or a limit of its profile is used up", "Raise it", passing=False)
_LARGE = Meaning(
    InvalidInputError,
    "a statement is larger than the server takes",
    "Name fewer sessions, ids or keys in one call, or raise the server's max_ast_elements and max_ast_depth",
)
_TABLES = Meaning(
    CorruptRecordError,
    "its tables are not those that agentstore made",
    "Has something else altered or dropped them? Restore a backup, or use another database",
)
_DAMAGED = Meaning(
    CorruptRecordError, "a part of a table is damaged", "Look at the server's log; CHECK TABLE names the parts"
)
_FAILED = Meaning(
    UnavailableError, "the server failed to carry out a statement", "Look at the server's log", passing=False
)
_BUG = Meaning(AgentstoreError, "the server was used wrongly", "This is a bug: please report it")

BY_CODE: Mapping[int, Meaning] = {
    **dict.fromkeys((192, 193, 194, 195, 516), _LOGIN),
    81: _DATABASE,
    **dict.fromkeys((164, 291, 392, 497), _RIGHTS),
    **dict.fromkeys((3, 32, 101, 102, 209, 210, 394, 735), _LOST),
    159: _SLOW,
    202: _CROWDED,
    252: _PARTS,
    **dict.fromkeys((96, 242, 298, 319, 999), _ENDING),
    243: _ROOM,
    **dict.fromkeys((167, 168), _LARGE),
    **dict.fromkeys((173, 241), _MEMORY),
    **dict.fromkeys((158, 160, 161, 162, 191, 201, 307, 396), _QUOTA),
    **dict.fromkeys((8, 10, 16, 20, 47, 53, 60), _TABLES),
    **dict.fromkeys((33, 40, 228, 246, 271), _DAMAGED),
    **dict.fromkeys(
        (46, 50, 56, 62, 115),
        Meaning(ConfigurationError, "the server does not know what agentstore needs", "Use ClickHouse 18.16 or later"),
    ),
}
"""By the number that the server gives; the list is ErrorCodes.cpp in its sources."""

BY_TYPE: Mapping[type[Exception], Meaning] = {
    ServerException: _FAILED,
    ssl.SSLError: _TLS,
    TimeoutError: _SLOW,
    asynch.NetworkError: _REACH,
    asynch.SocketTimeoutError: _SLOW,
    asynch.UnexpectedPacketFromServerError: _PROTOCOL,
    asynch.UnknownPacketFromServerError: _PROTOCOL,
    asynch.OperationalError: _LOST,
    asynch.ChecksumDoesntMatchError: _LOST,
    asynch.TypeMismatchError: _TABLES,
    asynch.UnknownTypeError: _TABLES,
    asynch.ColumnException: _TABLES,
    asynch.IntegrityError: _FAILED,
    asynch.InternalError: _FAILED,
    asynch.DataError: _TABLES,
    asynch.ClickHouseException: _BUG,
    asynch.Error: _BUG,
    asynch.Warning: _BUG,
    OSError: _LOST,
    EOFError: _LOST,
    struct.error: _LOST,  # asynch unpacks what a closed connection left
    IndexError: _LOST,
    AttributeError: _LOST,  # it goes on with a reader that it has let go of
}
"""For other numbers, and for what has none: the first that fits."""

RAISED = tuple(BY_TYPE)
"""What the use of a connection may raise that `translated` takes."""


def code(error: BaseException | None) -> int | None:
    """The number of a server's error."""
    return error.code if isinstance(error, ServerException) else None


def translated(error: Exception, place: str, *, ended: bool = False) -> AgentstoreError:
    """The error of ours for one of `RAISED`; raise it ``from`` that one.

    Args:
        error: What was raised.
        place: Which server, for the message.
        ended: The connection has ended: asynch takes what is missing for empty, and stumbles over it later.
    """
    known = _LOST if ended and not isinstance(error, ServerException) else BY_CODE.get(code(error) or 0)
    if any(isinstance(reason, ssl.SSLError) for reason in _reasons(error)):
        known = _TLS
    meaning = known or next(meaning for kind, meaning in BY_TYPE.items() if isinstance(error, kind))
    reason = error.__cause__ if meaning in (_REACH, _TLS) and error.__cause__ else error
    return meaning.told(place, _first_line(reason))


def _reasons(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _first_line(error: BaseException) -> str:
    message = error.message if isinstance(error, ServerException) else str(error)
    return (message or type(error).__name__).partition("\n")[0][:300]
