"""What the errors of PostgreSQL, asyncpg and the network mean here: the one map."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import asyncpg

from agentstore.drivers.meaning import Meaning
from agentstore.errors import (
    AgentstoreError,
    ConfigurationError,
    ConflictError,
    CorruptRecordError,
    InvalidInputError,
    MessageTooLargeError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


_LOST = Meaning(
    UnavailableError,
    "the connection was lost; whether the statement took effect is unknown",
    "A retry is safe: nothing is stored twice",
)
_STOPPING = Meaning(UnavailableError, "the server is starting up or shutting down", "Try again in a moment")
_CREDENTIALS = Meaning(
    ConfigurationError,
    "the server does not let this user in",
    "Check user and password in the URL (percent-encode special characters: %40 for @), and pg_hba.conf",
)
_RACE = Meaning(UnavailableError, "it gave way to another transaction", "A retry is safe", answered=True)
_ROOM = Meaning(UnavailableError, "the server has run out of memory or room", "Look at the server's log", passing=False)
_TABLES = Meaning(
    CorruptRecordError,
    "its tables are not those that agentstore made",
    "Has something else altered them? Restore a backup, or use another database or ?schema=",
)
_RIGHTS = Meaning(
    ConfigurationError,
    "this user may not do what agentstore needs",
    "GRANT CREATE and USAGE on the schema and all rights on its agentstore_ tables, or name a schema of its own in the "
    "URL: ?schema=NAME",
)
_TIMEOUT = Meaning(
    UnavailableError,
    "a statement took too long, or was cancelled",
    "Look for locks and load on the server, or raise PoolOptions.statement_timeout",
    passing=False,
)
_SILENT = Meaning(
    UnavailableError,
    "a statement took too long, or no answer came; whether it took effect is unknown",
    "Is the server there, and the network? Else look for locks and load on it, or raise PoolOptions.statement_timeout",
)
_DAMAGED = Meaning(CorruptRecordError, "the server finds its files damaged", "Look at its log; restore a backup")
_TRIGGER = Meaning(
    AgentstoreError, "something that was added to its tables (a trigger, say) refused", "Remove it, or mend it"
)
_BUG = Meaning(AgentstoreError, "PostgreSQL was used wrongly", "This is a bug: please report it")
_TLS = Meaning(
    ConfigurationError,
    "no TLS connection could be agreed on",
    "Check sslmode, sslrootcert, sslcert and sslkey in the URL, and the server's certificate",
)

BY_STATE: Mapping[str, Meaning] = {
    "08": _LOST,
    "08001": Meaning(UnavailableError, "no connection could be made"),
    "08004": Meaning(UnavailableError, "the server rejected the connection"),
    "08P01": Meaning(
        UnavailableError,
        "what stands between here and the server (PgBouncer, say) refused, or does not speak PostgreSQL's protocol",
        "Check host and port, and the log of what listens there",
    ),
    "0A": _BUG,
    "0P": _CREDENTIALS,
    "22": Meaning(InvalidInputError, "a value is none that PostgreSQL takes"),
    "23": Meaning(ConflictError, "what would be stored is there, or lacks something"),
    "25": _BUG,
    "25006": Meaning(
        UnavailableError,
        "the server takes no writes: it is a standby, or default_transaction_read_only is set",
        "Name the primary in the URL, or all hosts: then the one that takes writes is found",
        answered=True,  # in passing where another is just becoming the primary
    ),
    "25P03": _LOST,
    "25P04": _TIMEOUT,
    "26": Meaning(
        UnavailableError,
        "a prepared statement is gone: a pooler hands each transaction to another connection",
        "Write ?prepared=no in the URL",
        answered=True,
    ),
    "28": _CREDENTIALS,
    "3D": Meaning(
        ConfigurationError, "there is no such database", "Check the URL, or make it: createdb, or CREATE DATABASE"
    ),
    "3F": Meaning(ConfigurationError, "there is no such schema", "Check ?schema= in the URL"),
    "40": _RACE,
    "42": _TABLES,
    "42501": _RIGHTS,
    "42P05": Meaning(
        UnavailableError,
        "a prepared statement is there already: a pooler hands each transaction to another connection",
        "Write ?prepared=no in the URL",
        answered=True,
    ),
    "44": _TRIGGER,
    "53": _ROOM,
    "53100": Meaning(UnavailableError, "the server's disk is full", "Make room, then try again", passing=False),
    "53300": Meaning(
        UnavailableError,
        "the server takes no more connections",
        "Lower PoolOptions.size, raise max_connections, or put PgBouncer before it",
        answered=True,
    ),
    "54": Meaning(MessageTooLargeError, "a value or an index entry is larger than PostgreSQL takes"),
    "55": _TIMEOUT,
    "57": _TIMEOUT,
    "57P01": _STOPPING,
    "57P02": _STOPPING,
    "57P03": _STOPPING,
    "57P04": Meaning(UnavailableError, "the database was dropped", passing=False),
    "57P05": _LOST,
    "58": Meaning(UnavailableError, "the server's disk or system failed", "Look at the server's log", passing=False),
    "72": _RACE,
    "F0": Meaning(UnavailableError, "the server's settings are broken", "Look at the server's log", passing=False),
    "XX": Meaning(
        UnavailableError, "the server has met an error of its own", "Look at the server's log", passing=False
    ),
    "XX001": _DAMAGED,
    "XX002": _DAMAGED,
    **dict.fromkeys(("09", "27", "2F", "38", "39", "P0"), _TRIGGER),
    # nothing that we execute can meet these
    **dict.fromkeys(("01", "02", "03", "0B", "0F", "0L", "0Z", "10", "20", "21", "24"), _BUG),
    **dict.fromkeys(("2B", "2D", "34", "3B", "HV"), _BUG),
}
"""By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html), whole or its class."""

BY_TYPE: Mapping[type[BaseException], Meaning] = {
    ssl.SSLError: _TLS,
    TimeoutError: _SILENT,
    OSError: Meaning(
        UnavailableError,
        "the server cannot be reached",
        "Is it running, are host and port right, and does a firewall let us through?",
    ),
    asyncpg.ClientConfigurationError: Meaning(ConfigurationError, "the URL or the environment is wrong"),
    asyncpg.TargetServerAttributeNotMatched: Meaning(UnavailableError, "no host is as target_session_attrs asks"),
    asyncpg.UnsupportedServerFeatureError: Meaning(ConfigurationError, "the server lacks what agentstore needs"),
    asyncpg.UnsupportedClientFeatureError: Meaning(
        ConfigurationError, "the server asks for what asyncpg cannot", "Choose another method in pg_hba.conf"
    ),
    asyncpg.ProtocolError: _LOST,
    asyncpg.OutdatedSchemaCacheError: _RACE,
    asyncpg.InterfaceError: _LOST,
    asyncpg.InternalClientError: _LOST,  # the server said goodbye between two statements
    asyncpg.PostgresError: _BUG,
}
"""For what comes without a SQLSTATE: the first that fits."""

RAISED = tuple(BY_TYPE)
"""What asyncpg and the network raise, all of which `translated` takes."""

AGAIN = (asyncpg.TransactionRollbackError, asyncpg.LockNotAvailableError)
"""What another transaction caused: nothing was done, and the next attempt may succeed."""

DATA = (asyncpg.IntegrityConstraintViolationError, asyncpg.PLPGSQLError)
"""What one row may cause: the other operations of a batch need not suffer from it."""


def translated(error: BaseException, place: str) -> AgentstoreError:
    """The error of ours for one of `RAISED`; raise it ``from`` that one.

    Args:
        error: What a call on the connection raised.
        place: Which database, for the message; without password.
    """
    meaning = _meaning(error)
    said = str(error) or type(error).__name__
    return meaning.told(place, said)


def _meaning(error: BaseException) -> Meaning:
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return BY_STATE.get(state) or BY_STATE.get(state[:2], _BUG)
    if type(error) is ConnectionError and "rejected SSL" in str(error):  # asyncpg has no class for it
        return _TLS
    return next((meaning for kind, meaning in BY_TYPE.items() if isinstance(error, kind)), _BUG)
