"""Records with unreadable texts in place of what they say.

Of a message its content, tool calls, tool_call_id, name and metadata become one text, so that not even which of them
there are can be seen; a session's title, each key of its metadata, and each state value become one as well. A text is
``agentstore:1:``, the id of its key, a colon, and base64. It is bound to its place (the session and message id, role
and run; the session; the namespace and key): moved elsewhere it cannot be read. Nothing is compressed, since lengths
would then tell of contents, but for the one case that `codec.to_bytes` names.

Session metadata is merged by the backend, key by key: so each key is sealed for itself, under a token in place of its
name. The token depends on the encryption key; so a write sets the tokens of the name under the other keys of the ring
to null, and the last write wins, whatever order the keys have in other processes. Readers skip the nulls.
"""

from __future__ import annotations

import base64
from binascii import a2b_base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentstore import codec
from agentstore.checks import check_metadata
from agentstore.errors import CorruptRecordError
from agentstore.keyring import ID_LENGTH, VERSION
from agentstore.records import Message, ToolCall

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentstore.keyring import Keyring
    from agentstore.records import Session, StateItem

METADATA_ROOM = 12 * 2**20
"""Bytes that sealed metadata may come to: 8 MiB, a third more for base64, and 1.3 MiB for some 14,000 names."""

_NAME = "agentstore:"
_SEALED = f"{_NAME}{VERSION}:"
_TOKEN = 12  # bytes: no two of even 2**32 names of a session will meet
_CHUNK = 3 * 2**16  # bytes, a multiple of 3: base64 keeps the interpreter to itself while it works
_TEXT_CHUNK = _CHUNK // 3 * 4


def sealed_size(size: int) -> int:
    """About what so many bytes come to as sealed text."""
    return size * 4 // 3 + len(_SEALED) + 4 * ID_LENGTH + 40


def is_sealed(text: object) -> bool:
    """Whether this is a sealed text, by its looks."""
    return isinstance(text, str) and text.startswith(_SEALED)


def is_sealed_entry(name: str, text: object) -> bool:
    """Whether this is an entry of sealed metadata, by its looks."""
    return is_sealed(text) or (text is None and name.startswith(_NAME))


class RecordCipher:
    """Seals records, and opens them.

    What opens raises `CorruptRecordError` for a record that is not encrypted, is encrypted with another key, was moved
    or is damaged; what seals raises `InvalidInputError` for data too deep for the caller's stack.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._current = f"{_SEALED}{keyring.ids[0].hex()}:"
        self._head = bytes([VERSION]) + keyring.ids[0]

    def is_current(self, text: object) -> bool:
        """Whether a text is sealed with the first key."""
        return isinstance(text, str) and text.startswith(self._current)

    # --- messages ---

    def message(self, session_id: str, message: Message) -> Message:
        """The message, sealed."""
        said: Any = message.content
        if not isinstance(said, str) or _others(message):
            calls = [(call.id, call.name, call.arguments) for call in message.tool_calls]
            said = [said, calls, message.tool_call_id, message.name, message.metadata]
        text = self._seal(said, *_place_of(session_id, message))
        return replace(message, content=text, tool_calls=(), tool_call_id=None, name=None, metadata={})

    def open_message(self, session_id: str, message: Message) -> Message:
        """What `message` was given, with the seq of what is stored."""
        what = f"message {message.id!r} of session {session_id!r}"
        if _others(message) and is_sealed(message.content):
            raise CorruptRecordError(f"{what} has fields that are not encrypted: somebody has changed it")
        said = self._open(message.content, what, *_place_of(session_id, message))
        if isinstance(said, str):
            said = said, (), None, None, {}
        content, calls, tool_call_id, name, metadata = said
        return Message(  # `replace` takes three times as long
            message.role,
            content,
            message.id,
            message.seq,
            tuple(ToolCall(*call) for call in calls),
            tool_call_id,
            name,
            metadata,
            message.run_id,
            message.created_at,
        )

    # --- sessions ---

    def session(self, session: Session) -> Session:
        """The session, its title and metadata sealed."""
        title = None if session.title is None else self.title(session.id, session.title)
        return replace(session, title=title, metadata=self.metadata(session.id, session.metadata, whole=True))

    def open_session(self, session: Session) -> Session:
        """What `session` was given."""
        title = session.title
        if title is not None:
            title = self._open(title, f"the title of session {session.id!r}", "title", session.id)
        return replace(session, title=title, metadata=self._open_metadata(session.id, session.metadata))

    def title(self, session_id: str, title: str) -> str:
        """A session's title, sealed."""
        return self._seal(title, "title", session_id)

    def metadata(self, session_id: str, metadata: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
        """A session's metadata, sealed: to be merged into what is there, or as the `whole` of it.

        Raises:
            MessageTooLargeError: It has so many names that it cannot be stored.
        """
        sealed: dict[str, Any] = {}
        for name, value in metadata.items():
            token, *others = self._tokens(session_id, name)
            sealed[token] = self._seal([name, value], "metadata", session_id, token)
            if not whole:
                sealed |= dict.fromkeys(others)
        return check_metadata(sealed, "metadata, when encrypted,", METADATA_ROOM)

    def _open_metadata(self, session_id: str, sealed: Mapping[str, Any]) -> dict[str, Any]:
        what = f"the metadata of session {session_id!r}"
        found: dict[str, Any] = {}
        for token, text in sealed.items():
            if text is None and is_sealed_entry(token, None):  # it stands under another key's token
                continue
            name, value = self._open(text, what, "metadata", session_id, token)
            if name not in found or token == self._tokens(session_id, name)[0]:
                found[name] = value
        return found

    def _tokens(self, session_id: str, name: str) -> list[str]:
        tokens = self._keyring.tokens(f"{session_id}\0{name}".encode("utf-8", "surrogatepass"))
        return [_NAME + base64.urlsafe_b64encode(token[:_TOKEN]).decode() for token in tokens]

    # --- state ---

    def value(self, namespace: str, key: str, value: Any) -> str:
        """A state value, sealed."""
        return self._seal(value, "state", namespace, key)

    def open_item(self, namespace: str, item: StateItem) -> StateItem:
        """The item with what `value` was given."""
        value = self._open(item.value, f"the value of key {item.key!r}", "state", namespace, item.key)
        return replace(item, value=value)

    # --- texts ---

    def _seal(self, value: Any, *place: str) -> str:
        data = self._keyring.seal(codec.to_bytes(value), _aad(place))
        return self._current + _to_base64(data[len(self._head) :])

    def _open(self, text: Any, what: str, *place: str) -> Any:
        if not isinstance(text, str) or not text.startswith(_NAME):
            raise CorruptRecordError(
                f"{what} is not encrypted, and this store was given an encryption_key",
                hint="Encrypt what was stored without one: agentstore rekey",
            )
        try:
            data = self._to_data(text)
        except ValueError as error:
            raise CorruptRecordError(f"{what} cannot be decrypted: it is damaged") from error
        try:
            return codec.from_bytes(self._keyring.unseal(data, _aad(place)))
        except CorruptRecordError as error:
            raise CorruptRecordError(f"{what} cannot be decrypted: {error.args[0]}", hint=error.hint) from error

    def _to_data(self, text: str) -> bytes:
        if text.startswith(self._current):  # nearly all
            return self._head + _from_base64(text[len(self._current) :])
        version, key_id, encoded = text[len(_NAME) :].split(":", 2)
        return bytes([int(version), *bytes.fromhex(key_id)]) + _from_base64(encoded)


def _others(message: Message) -> bool:
    """Whether it says more than its content."""
    return bool(message.tool_calls or message.tool_call_id is not None or message.name is not None or message.metadata)


def _place_of(session_id: str, message: Message) -> tuple[str, ...]:
    return "message", session_id, message.id, message.role, message.run_id or ""


def _aad(place: tuple[str, ...]) -> bytes:
    return "\0".join(place).encode("utf-8", "surrogatepass")  # ids hold no NUL


def _to_base64(data: bytes) -> str:
    if len(data) <= _CHUNK:
        return base64.b64encode(data).decode()
    return "".join(base64.b64encode(data[at : at + _CHUNK]).decode() for at in range(0, len(data), _CHUNK))


def _from_base64(text: str) -> bytes:
    if len(text) <= _TEXT_CHUNK:
        return a2b_base64(text, strict_mode=True)
    chunks = range(0, len(text), _TEXT_CHUNK)
    return b"".join(a2b_base64(text[at : at + _TEXT_CHUNK], strict_mode=True) for at in chunks)
