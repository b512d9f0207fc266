"""The names of our keys, and the members of the listings.

All keys of a session, and all of a namespace, have a hash tag in common, so a cluster keeps them in one slot. Braces in
an id would end the tag early, so they are percent-encoded, as the percent sign is; everything else stands as it is. A
prefix holds no brace: no key of one prefix is one of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from agentstore import codec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentstore.records import Session

_CODES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})
_YEAR_1 = 62_135_596_800_000_000  # microseconds before 1970: none is below zero, so digits sort as numbers
_TIME, _SEQ = 18, 19  # digits
_MAX_SEQ = 10**_SEQ - 1


class SessionKeys(NamedTuple):
    """Of one session.

    Attributes:
        head: A text: the version and what else is known of the session, see `records`.
        last: The last seq, where the head will go, or has gone.
        log: A sorted set of records, all of score 0, each beginning with its seq: the order of bytes is that of seqs.
        ids: A hash from message id to seq.
        marks: How far queues have come: an object of ints; there if one has written here, and for good.
    """

    head: str
    last: str
    log: str
    ids: str
    marks: str


class NamespaceKeys(NamedTuple):
    """Of one namespace.

    Attributes:
        item: What the key of an item begins with; the item's own name follows.
        names: A sorted set of the items' names, all of score 0: the order of bytes is that of codepoints.
        versions: A hash from name to version of the items that will go by themselves.
        floor: The highest version that a removed item had.
        marks: As a session's.
    """

    item: str
    names: str
    versions: str
    floor: str
    marks: str


class Keys:
    """The names of all our keys.

    Attributes:
        prefix: What they all begin with.
        schema: The version of this layout.
        sessions: The listing of all sessions by time.
        expiring: The listing of sessions by expiry.
        expiring_items: The listing of state items by expiry.
        any_names: The pattern of every `NamespaceKeys.names`.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.schema = f"{prefix}:schema"
        self.sessions = f"{prefix}:sessions"
        self.expiring = f"{prefix}:expiring"
        self.expiring_items = f"{prefix}:expiring-items"
        self.any_names = f"{prefix}:n:{{/*}}:names"

    def session(self, session_id: str) -> SessionKeys:
        """Those of a session."""
        tag = f"{self.prefix}:s:{{{session_id.translate(_CODES)}}}:"
        return SessionKeys(f"{tag}head", f"{tag}last", f"{tag}log", f"{tag}ids", f"{tag}marks")

    def user(self, user_id: str) -> str:
        """The listing of a user's sessions by time."""
        return f"{self.prefix}:u:{{{user_id.translate(_CODES)}}}"

    def namespace(self, namespace: str) -> NamespaceKeys:
        """Those of a namespace; the root's name is empty, which no hash tag may be."""
        tag = f"{self.prefix}:n:{{/{namespace.translate(_CODES)}}}:"
        return NamespaceKeys(f"{tag}item:", f"{tag}names", f"{tag}versions", f"{tag}floor", f"{tag}marks")

    def namespace_of(self, names: str) -> str | None:
        """The namespace whose `NamespaceKeys.names` this is, one of what `any_names` finds; None: it is another key."""
        before, _, after = self.any_names.partition("*")
        tag = names[len(before) : len(names) - len(after)]
        return None if "}" in tag else unquote(tag)  # the name of an item may look like the end of a key

    def entries(self, session: Session | None) -> Iterator[tuple[str, str]]:
        """The (listing, member) pairs by which a session is found."""
        if session is None:
            return
        updated = moment(codec.to_micros(session.updated_at))
        member = f"{updated}{session.id}"
        yield self.sessions, member
        if session.user_id is not None:
            yield self.user(session.user_id), member
        if session.expires_at is not None:
            expires = moment(codec.to_micros(session.expires_at))
            yield self.expiring, f"{expires}{updated}{session.id}\0{session.user_id or ''}"

    def expired(self, member: str) -> tuple[str, list[tuple[str, str]]]:
        """The session id that a member of `expiring` names, and all pairs that were written with it."""
        session_id, _, user_id = member[2 * _TIME :].partition("\0")
        by_time = f"{member[_TIME : 2 * _TIME]}{session_id}"
        pairs = [(self.sessions, by_time), (self.expiring, member)]
        return session_id, [*pairs, (self.user(user_id), by_time)] if user_id else pairs


def moment(micros: int) -> str:
    """A time in digits that sort."""
    return f"{micros + _YEAR_1:0{_TIME}d}"


def listed(member: str) -> tuple[int, str]:
    """The (updated_at in microseconds, session id) of a member of a listing by time."""
    return int(member[:_TIME]) - _YEAR_1, member[_TIME:]


def expiring_item(expires: int, namespace: str, key: str) -> str:
    """A member of `Keys.expiring_items`."""
    return f"{moment(expires)}{namespace}\0{key}"


def expired_item(member: str) -> tuple[str, str]:
    """The (namespace, key) of such a member."""
    namespace, _, key = member[_TIME:].partition("\0")
    return namespace, key


def seq_digits(seq: int) -> str:
    """A seq in digits that sort; the nearest that there is, for bounds may be any."""
    return f"{max(0, min(seq, _MAX_SEQ)):0{_SEQ}d}"
