"""Plain, or encrypted with one key or another."""

from __future__ import annotations

from dataclasses import replace
from itertools import starmap
from typing import TYPE_CHECKING, Any

from agentstore.errors import ConfigurationError, CorruptRecordError
from agentstore.keyring import Keyring
from agentstore.layers.sealing import RecordCipher, is_sealed, is_sealed_entry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentstore.records import Message, Session, StateItem


class Forms:
    """The forms that a record may have, and the one that it shall have.

    A plain record is taken only where no old key is given: else somebody could have put it there.
    """

    def __init__(self, old_keys: Sequence[str | bytes], new_key: str | bytes | None) -> None:
        if new_key is None and not old_keys:
            raise ConfigurationError("there is neither an old key nor a new one: nothing would change")
        new = [] if new_key is None else [new_key]
        self._cipher = RecordCipher(Keyring([*new, *old_keys]))
        self._final = RecordCipher(Keyring(new)) if new else None
        self._takes_plain = not old_keys

    def message(self, session_id: str, stored: Message) -> Message:
        """As it shall be; the very same if it is."""
        if self._is_final(stored.content):
            return stored
        plain = stored if self._is_plain(stored.content) else self._cipher.open_message(session_id, stored)
        return self._cipher.message(session_id, plain) if self._final else plain

    def session(self, stored: Session) -> Session:
        """As it shall be; the very same if it is."""
        entries = stored.metadata.items()
        if (stored.title is None or self._is_final(stored.title)) and all(starmap(self._is_final_entry, entries)):
            return stored
        title, sealed, plain = stored.title, stored.metadata, {}
        if self._takes_plain:  # some of it may be encrypted already
            title = title if is_sealed(title) else None
            sealed = {name: text for name, text in entries if is_sealed_entry(name, text)}
            plain = {name: value for name, value in entries if name not in sealed}
        opened = self._cipher.open_session(replace(stored, title=title, metadata=sealed))
        title = stored.title if title is None else opened.title
        opened = replace(opened, title=title, metadata={**plain, **opened.metadata})
        return self._cipher.session(opened) if self._final else opened

    def item(self, namespace: str, stored: StateItem) -> StateItem:
        """As it shall be; the very same if it is."""
        if self._is_final(stored.value):
            return stored
        plain = stored if self._is_plain(stored.value) else self._cipher.open_item(namespace, stored)
        return replace(plain, value=self._cipher.value(namespace, stored.key, plain.value)) if self._final else plain

    def check_message(self, session_id: str, stored: Message) -> None:
        """Let pass what is as it shall be, and can be opened; `CorruptRecordError` if not. The next two do likewise."""
        _check(stored, self.message(session_id, stored))
        if self._final:
            self._final.open_message(session_id, stored)

    def check_session(self, stored: Session) -> None:
        """As `check_message`."""
        _check(stored, self.session(stored))
        if self._final:
            self._final.open_session(stored)

    def check_item(self, namespace: str, stored: StateItem) -> None:
        """As `check_message`."""
        _check(stored, self.item(namespace, stored))
        if self._final:
            self._final.open_item(namespace, stored)

    def _is_final(self, text: Any) -> bool:
        return self._final.is_current(text) if self._final else not is_sealed(text)

    def _is_final_entry(self, name: str, text: Any) -> bool:
        if text is None:
            return is_sealed_entry(name, text) == (self._final is not None)
        return self._is_final(text)

    def _is_plain(self, text: Any) -> bool:
        return self._takes_plain and not is_sealed(text)


def _check(stored: object, new: object) -> None:
    if new is not stored:
        raise CorruptRecordError("a record is still in its old form: something is writing in that form")
