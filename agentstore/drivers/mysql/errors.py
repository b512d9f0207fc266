"""What the errors of the server, of PyMySQL and of the network mean here: the one map."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

from pymysql import err

from agentstore.drivers.meaning import Meaning
from agentstore.errors import (
    AgentstoreError,
    ConfigurationError,
    CorruptRecordError,
    MessageTooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


_LOGIN = Meaning(
    ConfigurationError,
    "the server does not accept this user and password",
    "Correct them in the database URL (percent-encoded: %40 for @), and the host that the account may come from",
)
_DATABASE = Meaning(
    ConfigurationError,
    "there is no such database, or this user may not use it",
    "CREATE DATABASE it and GRANT ALL on it, or correct the name in the database URL",
)
_RIGHTS = Meaning(
    ConfigurationError,
    "this user lacks a right that agentstore needs",
    "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, INDEX, DROP on the database to the user",
)
_AUTHENTICATION = Meaning(
    ConfigurationError,
    "the server asks for a kind of authentication that cannot be given",
    "Use TLS (ssl-mode=REQUIRED), or an account with caching_sha2_password or mysql_native_password",
)
_PASSWORD = Meaning(ConfigurationError, "the account is locked or its password has expired", "Ask its administrator")
_TLS = Meaning(
    ConfigurationError,
    "no TLS connection that fits the settings could be made",
    "Compare ssl-mode, ssl-ca, ssl-cert and ssl-key in the URL with what the server has",
)
_REACH = Meaning(UnavailableError, "the server cannot be reached", "Is it running, and reachable from here?")
_LOST = Meaning(
    UnavailableError,
    "the connection was lost: what was being written may be stored or not",
    "Try again: message ids keep an append from being stored twice",
)
_CROWDED = Meaning(
    UnavailableError,
    "the server takes no more connections now",
    "Raise its max_connections (or the account's limit), or lower PoolOptions.size",
    answered=True,
)
_ENDING = Meaning(UnavailableError, "the server is shutting down or not ready yet", "Try again")
_SLOW = Meaning(
    UnavailableError,
    "a statement took too long",
    "Look for what keeps the server busy, or raise statement_timeout",
    passing=False,
)
_LOCKED = Meaning(
    UnavailableError,
    "others kept rows locked for too long",
    "Let no program hold a transaction on agentstore's tables open, or raise PoolOptions.statement_timeout",
    passing=False,
)
_READ_ONLY = Meaning(
    UnavailableError,
    "the server is read-only",
    "Is it a replica? Name the primary in the database URL, or all members of the cluster: host1,host2",
    answered=True,  # in passing where another is just becoming the primary
)
_FULL = Meaning(UnavailableError, "the server has no room left", "Make room on its disk, then try again", passing=False)
_MEMORY = Meaning(UnavailableError, "the server has not enough memory", passing=False)
_ENGINE = Meaning(UnavailableError, "the storage engine failed", "Look at the server's error log", passing=False)
_PACKET = Meaning(
    MessageTooLargeError,
    "the server's max_allowed_packet is too small",
    "SET GLOBAL max_allowed_packet = 67108864, and the same in its configuration file",
)
_TABLES = Meaning(
    CorruptRecordError,
    "its tables are not those that agentstore made",
    "Has something else altered them? Restore a backup, or use another database",
)
_ROWS = Meaning(CorruptRecordError, "the stored rows contradict each other", "Restore a backup, or delete the session")
_SERVER = Meaning(
    ConfigurationError,
    "the server is too old, or set up in a way that agentstore cannot use",
    "Use MySQL 8.0 or MariaDB 10.6 at least, with InnoDB pages of 16 KB and binlog_format=ROW or MIXED",
)
_BUG = Meaning(AgentstoreError, "the server was used wrongly", "This is a bug: please report it")

AGAIN = frozenset({1020, 1213, 3101})
"""The transaction was undone because of another one: it can be run again. (A changed record under MariaDB's
innodb_snapshot_isolation, a deadlock or Galera's certification, Group Replication's.) A wait for a lock ends with
another number after the whole statement_timeout, and is the end."""

READ_ONLY = frozenset({1290, 1792, 1836})
"""The server takes no writes."""

BY_CODE: Mapping[int, Meaning] = {
    **dict.fromkeys((1044, 1049), _DATABASE),
    **dict.fromkeys((1045, 1130, 1698), _LOGIN),
    **dict.fromkeys((1820, 1862, 3118, 4151), _PASSWORD),
    **dict.fromkeys((1251, 1275, 2049, 2059, 2061), _AUTHENTICATION),
    **dict.fromkeys((1142, 1143, 1227, 1370), _RIGHTS),
    **dict.fromkeys((2026, 3159), _TLS),
    **dict.fromkeys((1042, 1129, 2001, 2002, 2003, 2005), _REACH),
    **dict.fromkeys((1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 2014, 2027, 4031), _LOST),
    **dict.fromkeys((1040, 1203, 1226, 2012), _CROWDED),
    **dict.fromkeys((1047, 1053, 1077, 1079, 3100, 3169), _ENDING),
    **dict.fromkeys((1317, 1969, 3024), _SLOW),
    **dict.fromkeys((1020, 1099, 1100, 1192, 1205, 1206, 1213, 3101, 3572), _LOCKED),
    **dict.fromkeys(READ_ONLY, _READ_ONLY),
    **dict.fromkeys((3, 28, 1021, 1114, 1197, 1534), _FULL),
    **dict.fromkeys((5, 1037, 1038, 1041), _MEMORY),
    **dict.fromkeys((1030, 1034, 1180, 1194, 1195, 1296), _ENGINE),
    **dict.fromkeys((1153, 1301, 2020), _PACKET),
    **dict.fromkeys((1054, 1136, 1146, 1264, 1364, 1366, 1406, 1932), _TABLES),
    1062: _ROWS,
    1064: _BUG,
    **dict.fromkeys((1071, 1115, 1193, 1231, 1273, 1286, 1598, 1665, 1709), _SERVER),
}
"""By the number that server and client give (https://dev.mysql.com/doc/mysql-errors/8.4/en/, the same on MariaDB)."""

BY_TYPE: Mapping[type[Exception], Meaning] = {
    ssl.SSLError: _TLS,
    TimeoutError: Meaning(
        UnavailableError,
        "no answer came in time: what was being written may be stored or not",
        "Try again; look whether the server hangs, or raise PoolOptions.statement_timeout",
    ),
    OSError: _REACH,
    err.IntegrityError: _ROWS,
    err.DataError: _TABLES,
    err.NotSupportedError: _SERVER,
    err.InterfaceError: _LOST,
    err.ProgrammingError: _BUG,
    err.InternalError: _ENGINE,
    err.OperationalError: _ENGINE,
    err.DatabaseError: _ENGINE,
    err.Error: _BUG,
    err.Warning: _BUG,
    err.MySQLError: _BUG,
}
"""For other numbers, and for what has none: the first that fits."""

RAISED = tuple(BY_TYPE)
"""What the use of a connection may raise that `translated` takes."""


def code(error: BaseException) -> int | None:
    """The number of a server's or client's error."""
    number: Any = error.args[0] if isinstance(error, err.MySQLError) and error.args else None
    return number if isinstance(number, int) else None


def translated(error: Exception, place: str) -> AgentstoreError:
    """The error of ours for one of `RAISED`; raise it ``from`` that one.

    Args:
        error: What was raised.
        place: Which server, for the message.
    """
    known = BY_CODE.get(code(error) or 0)
    if isinstance(error.__cause__, ssl.SSLError):  # aiomysql says only that it cannot connect
        known = _TLS
    meaning = known or next(meaning for kind, meaning in BY_TYPE.items() if isinstance(error, kind))
    reason = error.__cause__ if known in {_REACH, _TLS} and error.__cause__ else error
    return meaning.told(place, reason)
