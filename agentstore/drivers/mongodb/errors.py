"""What the errors of MongoDB and its driver mean here: the one map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bson import errors as bson_errors
from pymongo import errors as mongo

from agentstore.drivers.meaning import Meaning
from agentstore.errors import (
    AgentstoreError,
    ConfigurationError,
    ConflictError,
    CorruptRecordError,
    InvalidInputError,
    MessageTooLargeError,
    PoolTimeoutError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


_CREDENTIALS = Meaning(
    ConfigurationError,
    "the server refuses the user name or password",
    "Check both, and authSource: users are mostly kept in the database admin, so add ?authSource=admin",
)
_RIGHTS = Meaning(
    ConfigurationError, "the user may not do this", "Give it the role readWrite on the database that the URL names"
)
_UNREACHABLE = Meaning(
    UnavailableError,
    "no server that can be written to answered",
    "Is it running, and reachable from here? A replica set needs a primary, and the right replicaSet in the URL",
)
_LOST = Meaning(UnavailableError, "the connection was lost", "Try again: what was stored already is recognised")
_PRIMARY = Meaning(UnavailableError, "the primary is changing", "Try again in a few seconds", answered=True)
_ENDING = Meaning(UnavailableError, "the server is shutting down", "Try again when it is back")
_SLOW = Meaning(
    UnavailableError,
    "the server took too long",
    "Raise PoolOptions.statement_timeout, or look at its load",
    passing=False,
)
_SILENT = Meaning(
    UnavailableError,
    "no answer came in time",
    "Is the server there, and the network? Else raise PoolOptions.statement_timeout, or look at its load",
)
_CONCERN = Meaning(
    UnavailableError,
    "not enough members of the replica set confirmed the write",
    "It may yet be stored. Are members down, or far behind?",
    answered=True,
)
_TLS = Meaning(
    ConfigurationError,
    "TLS does not come about",
    "Check tls=true or tls=false, tlsCAFile (whom to trust) and that the certificate names this host",
)
_DISK = Meaning(UnavailableError, "the server's disk is full", "Make room, then try again", passing=False)
_TOO_LARGE = Meaning(MessageTooLargeError, "a document is larger than MongoDB's 16 MB")
_INDEXES = Meaning(
    ConfigurationError,
    "its collections have other indexes under the same names",
    "Something else uses them: name another database in the URL",
)
_DUPLICATE = Meaning(ConflictError, "what would be stored is there")
_BUG = Meaning(AgentstoreError, "MongoDB was used wrongly", "This is a bug: please report it")

BY_CODE: Mapping[int, Meaning] = {
    11: _CREDENTIALS,  # UserNotFound
    13: _RIGHTS,  # Unauthorized
    18: _CREDENTIALS,  # AuthenticationFailed
    8000: _CREDENTIALS,  # what Atlas says
    33: _CREDENTIALS,  # MechanismUnavailable
    334: _CREDENTIALS,
    26: _BUG,  # NamespaceNotFound
    73: Meaning(ConfigurationError, "it allows no such database name"),  # InvalidNamespace
    46: _SLOW,  # LockBusy
    24: _SLOW,  # LockTimeout
    50: _SLOW,  # MaxTimeMSExpired
    262: _SLOW,  # ExceededTimeLimit
    11601: _SLOW,  # Interrupted
    6: _LOST,  # HostUnreachable
    7: _LOST,  # HostNotFound
    89: _LOST,  # NetworkTimeout
    9001: _LOST,  # SocketException
    43: _LOST,  # CursorNotFound: the server was restarted, or took the cursor away
    112: Meaning(UnavailableError, "another write came between", "Try again", answered=True),  # WriteConflict
    91: _ENDING,  # ShutdownInProgress
    11600: _ENDING,  # InterruptedAtShutdown
    189: _PRIMARY,  # PrimarySteppedDown
    10107: _PRIMARY,  # NotWritablePrimary
    11602: _PRIMARY,  # InterruptedDueToReplStateChange
    13435: _PRIMARY,  # NotPrimaryNoSecondaryOk
    13436: _PRIMARY,  # NotPrimaryOrSecondary
    64: _CONCERN,  # WriteConcernFailed (before 8.1) or WriteConcernTimeout
    79: Meaning(ConfigurationError, "the replica set does not know that write concern", "Correct w in the URL"),
    100: _CONCERN,  # UnsatisfiableWriteConcern
    85: _INDEXES,  # IndexOptionsConflict
    86: _INDEXES,  # IndexKeySpecsConflict
    10334: _TOO_LARGE,  # BSONObjectTooLarge
    14031: _DISK,  # OutOfDiskSpace
    11000: _DUPLICATE,
    462: Meaning(
        UnavailableError, "the server takes no more requests now", "Try again", answered=True
    ),  # IngressRequestRateLimitExceeded
}
"""By the server's code (src/mongo/base/error_codes.yml)."""

BY_TYPE: Mapping[type[Exception], Meaning] = {
    mongo.WaitQueueTimeoutError: Meaning(
        PoolTimeoutError, "all connections stayed in use for too long", "Raise PoolOptions.size or PoolOptions.timeout"
    ),
    mongo.ServerSelectionTimeoutError: _UNREACHABLE,
    mongo.NotPrimaryError: _PRIMARY,
    mongo.NetworkTimeout: _SILENT,
    mongo.ConnectionFailure: _LOST,
    mongo.ProtocolError: _LOST,
    mongo.InvalidURI: Meaning(ConfigurationError, "the URL is not one that MongoDB's driver takes"),
    mongo.ConfigurationError: Meaning(ConfigurationError, "the URL's settings do not work"),
    mongo.InvalidName: Meaning(ConfigurationError, "it allows no such database name"),
    mongo.ExecutionTimeout: _SLOW,
    mongo.WTimeoutError: _CONCERN,
    mongo.WriteConcernError: _CONCERN,
    mongo.DuplicateKeyError: _DUPLICATE,
    mongo.CursorNotFound: _LOST,
    mongo.OperationFailure: Meaning(UnavailableError, "the server refused", "Look at its log", passing=False),
    mongo.EncryptionError: Meaning(ConfigurationError, "client-side encryption does not work"),
    mongo.PyMongoError: _BUG,
    mongo.DocumentTooLarge: _TOO_LARGE,
    bson_errors.InvalidBSON: Meaning(
        CorruptRecordError, "a stored document cannot be read", "Restore a backup, or delete what it belongs to"
    ),
    bson_errors.BSONError: _BUG,
    OverflowError: Meaning(InvalidInputError, "a number is beyond 64 bits"),
    OSError: Meaning(ConfigurationError, "a file that its URL names cannot be read", "Check tlsCAFile and its like"),
}
"""By class, for what has no code of the server's that we know: the first that fits."""

RAISED = (mongo.PyMongoError, bson_errors.BSONError, OverflowError, OSError)
"""What a call of the driver may raise that `translated` takes."""

_TLS_WORDS = ("SSL handshake failed", "certificate verify failed", "WRONG_VERSION_NUMBER", "TLSV1_ALERT")


def translated(error: Exception, place: str) -> AgentstoreError:
    """The error of ours for one of `RAISED`; raise it ``from`` that one.

    Args:
        error: What a call raised.
        place: Which store, for the message.
    """
    meaning = meaning_of(error)
    return meaning.told(place, _brief(error))


def meaning_of(error: Exception) -> Meaning:
    """What an error means: by its server's code, where we know it, else by its class."""
    text = str(error)
    if isinstance(error, mongo.ConnectionFailure) and any(word in text for word in _TLS_WORDS):
        return _TLS
    for code in _codes(error):
        if code in BY_CODE:
            return BY_CODE[code]
    return next(meaning for kind, meaning in BY_TYPE.items() if isinstance(error, kind))


def _codes(error: Exception) -> list[int]:
    """The server's codes; of a command with many writes those of each, the worst news first."""
    codes: list[int] = []
    if isinstance(error, mongo.BulkWriteError):
        details = error.details
        codes = [
            item.get("code", 0) for part in ("writeConcernErrors", "writeErrors") for item in details.get(part, ())
        ]
    code = getattr(error, "code", None)
    return codes + ([code] if isinstance(code, int) else [])


def _brief(error: Exception) -> str:
    """Its text, without the whole command that some carry along."""
    if isinstance(error, mongo.BulkWriteError):
        details = error.details
        for item in (*details.get("writeConcernErrors", ()), *details.get("writeErrors", ())):
            return str(item.get("errmsg", item))
    text = str(error).partition(", full error:")[0]
    return text.partition(", Topology Description:")[0]


UNREADABLE = (bson_errors.InvalidBSON,)
"""What concerns a stored document, and nobody else in a batch."""


def unreadable(error: Exception) -> AgentstoreError:
    """The error of ours for what a stored document made fail."""
    if isinstance(error, AgentstoreError):
        return error
    ours = CorruptRecordError(
        f"a stored document cannot be read ({type(error).__name__}: {error})",
        hint="Mend it from a backup, or delete what it belongs to",
    )
    ours.__cause__ = error
    return ours
