"""Keys, and what they seal: AES-256-GCM under keys derived by HKDF-SHA256."""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from .errors import ConfigurationError, CorruptRecordError, shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Keys: TypeAlias = "str | bytes | Iterable[str | bytes]"
"""One key, or several of which the first encrypts and all decrypt."""

MIN_LENGTH = 16
"""Characters or bytes of a key: fewer are no random key."""

VERSION = 1
ID_LENGTH = 6
"""Bytes of a key's public id."""

_NONCE, _TAG = 12, 16
_HEADER = 1 + ID_LENGTH
_HINT = "Make one with: openssl rand -base64 32"


class Keyring:
    """Seals bytes with its first key, and unseals what any of its keys has sealed.

    Each key is random text or bytes, as ``openssl rand -base64 32`` prints; from it come an AES-256 key, a key for
    names, and a public id. It is no passphrase: nothing here makes guessing slow. What is sealed is a byte of version,
    the key's id, a random nonce of 96 bits, and what AES-GCM makes of it all, 35 bytes more than what it holds; with
    random nonces a key is good for some 2**32 of these, then take another (docs/encryption.md).

    Args:
        keys: One key, or several.

    Attributes:
        ids: The public ids of the keys, the first key's first: they are part of what is sealed, and say nothing of it.

    Raises:
        ConfigurationError: There is none, one is no key, or the package cryptography is missing.
    """

    __slots__ = ("_ciphers", "_mismatch", "_names", "ids")

    def __init__(self, keys: Keys) -> None:
        derived = {key_id: (cipher, names) for key_id, cipher, names in map(_derived, _given(keys))}
        self.ids = tuple(derived)
        self._ciphers: dict[bytes, AESGCM] = {key_id: cipher for key_id, (cipher, _) in derived.items()}
        self._names = tuple(names for _, names in derived.values())

        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  it is there: a key was made

        self._mismatch = InvalidTag

    def __repr__(self) -> str:
        return f"Keyring({', '.join(key_id.hex() for key_id in self.ids)})"

    def seal(self, data: bytes, aad: bytes) -> bytes:
        """`data` encrypted; only with the very same `aad`, which names the place it is for, can it be unsealed."""
        key_id = self.ids[0]
        header, nonce = bytes([VERSION]) + key_id, os.urandom(_NONCE)
        return header + nonce + self._ciphers[key_id].encrypt(nonce, data, header + aad)

    def unseal(self, data: bytes, aad: bytes) -> bytes:
        """What `seal` was given.

        Raises:
            CorruptRecordError: It was sealed with a key that is not here, for another place, or is damaged.
        """
        if len(data) < _HEADER + _NONCE + _TAG or data[0] != VERSION:
            raise CorruptRecordError("what is encrypted is cut short, or of another version of agentstore")
        header, nonce = data[:_HEADER], data[_HEADER : _HEADER + _NONCE]
        cipher = self._ciphers.get(header[1:])
        if cipher is None:
            here = " and ".join(key_id.hex() for key_id in self.ids)
            raise CorruptRecordError(
                f"it was encrypted with another key, that of id {header[1:].hex()}; here is {here}",
                hint="Add that key to encryption_key, behind the first",
            )
        try:
            return cipher.decrypt(nonce, data[_HEADER + _NONCE :], header + aad)
        except self._mismatch as error:
            raise CorruptRecordError("what is encrypted is damaged, or was moved here from another place") from error

    def tokens(self, name: bytes) -> tuple[bytes, ...]:
        """What stands for a name that nobody may read: equal for equal names, another under each key."""
        found = []
        for keyed in self._names:
            digest = keyed.copy()
            digest.update(name)
            found.append(digest.digest())
        return tuple(found)


def _given(keys: Keys) -> list[bytes]:
    if isinstance(keys, (str, bytes)):
        keys = [keys]
    if not isinstance(keys, Iterable):
        raise ConfigurationError(f"encryption_key must be a str, bytes, or several of them, not {shown(keys)}")
    checked = [_checked(key) for key in keys]
    if not checked:
        raise ConfigurationError("encryption_key holds no key", hint=_HINT)
    return checked


def _checked(key: object) -> bytes:
    if not isinstance(key, (str, bytes)):
        raise ConfigurationError(f"encryption_key: a key is a str or bytes, not {shown(key)}", hint=_HINT)
    if len(key) < MIN_LENGTH:
        unit = "characters" if isinstance(key, str) else "bytes"
        raise ConfigurationError(
            f"encryption_key: a key has {len(key)} {unit}, and at least {MIN_LENGTH} are needed", hint=_HINT
        )
    return key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key


def _derived(key: bytes) -> tuple[bytes, AESGCM, hmac.HMAC]:
    """A key's id, its cipher, and its keyed hash for names."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  an extra
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "encryption_key needs the package cryptography", hint="pip install 'agentstore[encryption]'"
        ) from error

    def derive(purpose: str, length: int) -> bytes:
        return HKDF(SHA256(), length, salt=None, info=f"agentstore {VERSION} {purpose}".encode()).derive(key)

    return derive("key id", ID_LENGTH), AESGCM(derive("encryption", 32)), hmac.new(derive("names", 32), None, "sha256")
