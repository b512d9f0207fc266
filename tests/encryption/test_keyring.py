"""Keys: what is one, and that nothing but the very data, key and place opens what was sealed."""

import base64
import pickle
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentstore import ConfigurationError, CorruptRecordError, db
from agentstore.keyring import Keyring

KEY, OTHER = "0123456789abcdef-first", "0123456789abcdef-other"


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("", "a key has 0 characters, and at least 16 are needed"),
        ("k3y", "a key has 3 characters, and at least 16 are needed"),
        (b"k3y", "a key has 3 bytes, and at least 16 are needed"),
        ([KEY, "k3y"], "a key has 3 characters"),
        ([], "encryption_key holds no key"),
        (5, "encryption_key must be a str, bytes, or several of them, not 5"),
        ([None], "a key is a str or bytes, not None"),
        ([[KEY]], "a key is a str or bytes, not a list"),
        (bytearray(32), "a key is a str or bytes, not 0"),
    ],
)
def test_what_is_no_key(keys, told):
    with pytest.raises(ConfigurationError) as caught:
        db("memory:", encryption_key=keys)
    assert told in str(caught.value)
    assert "k3y" not in str(caught.value)


def test_a_missing_package_is_explained():
    code = "import sys; sys.modules['cryptography'] = None; import agentstore; agentstore.db('memory:'); "
    code += f"agentstore.db('memory:', encryption_key={KEY!r})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "pip install 'agentstore[encryption]'" in result.stderr.splitlines()[-1]
    assert KEY not in result.stderr.splitlines()[-1]


def test_text_and_its_bytes_are_one_key_and_doubles_count_once():
    assert Keyring(KEY).ids == Keyring(KEY.encode()).ids == Keyring([KEY, KEY.encode()]).ids
    assert len(Keyring([KEY, OTHER, KEY]).ids) == 2
    assert Keyring(iter([KEY, OTHER])).ids == (*Keyring(KEY).ids, *Keyring(OTHER).ids)


def test_what_is_sealed_is_as_documented():
    sealed = Keyring(KEY).seal(b"data", b"place")
    key = HKDF(SHA256(), 32, salt=None, info=b"agentstore 1 encryption").derive(KEY.encode())
    assert len(sealed) == len(b"data") + 35
    assert (sealed[0], sealed[1:7]) == (1, Keyring(KEY).ids[0])
    assert AESGCM(key).decrypt(sealed[7:19], sealed[19:], sealed[:7] + b"place") == b"data"


def test_data_comes_back_and_no_two_seals_are_alike():
    ring = Keyring(KEY)
    for data in (b"", b"x", bytes(range(256)) * 1000):
        assert ring.unseal(ring.seal(data, b"place"), b"place") == data
    assert len({ring.seal(b"data", b"") for _ in range(1000)}) == 1000


def test_all_keys_decrypt_and_the_first_encrypts():
    old, new = Keyring(KEY), Keyring([OTHER, KEY])
    assert new.unseal(old.seal(b"data", b""), b"") == b"data"
    with pytest.raises(CorruptRecordError) as caught:
        old.unseal(new.seal(b"data", b""), b"")
    assert f"another key, that of id {new.ids[0].hex()}" in str(caught.value)
    assert KEY not in str(caught.value)
    assert OTHER not in str(caught.value)


def test_every_flipped_bit_and_every_cut_is_noticed():
    ring = Keyring(KEY)
    sealed = ring.seal(b"data", b"place")
    for place in range(8 * len(sealed)):
        flipped = bytearray(sealed)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(CorruptRecordError):
            ring.unseal(bytes(flipped), b"place")
    for length in range(len(sealed)):
        with pytest.raises(CorruptRecordError):
            ring.unseal(sealed[:length], b"place")
    for place in (b"", b"plac", b"place2"):
        with pytest.raises(CorruptRecordError, match="damaged, or was moved"):
            ring.unseal(sealed, place)


def test_names_have_tokens_that_differ_by_key():
    ring = Keyring([KEY, OTHER])
    assert ring.tokens(b"name") == ring.tokens(b"name") == tuple(reversed(Keyring([OTHER, KEY]).tokens(b"name")))
    assert len({*ring.tokens(b"name"), *ring.tokens(b"eman")}) == 4


def test_keys_are_shown_nowhere():
    ring = Keyring([KEY, OTHER])
    database = db("memory:", encryption_key=[KEY, OTHER])
    for shown in (repr(ring), str(ring), repr(database), f"{database.stats()}", repr(vars(database)), str(database)):
        for key in (KEY, OTHER):
            assert key not in shown
            assert base64.b64encode(key.encode()).decode() not in shown
    assert [key_id.hex() in repr(ring) for key_id in ring.ids] == [True, True]
    with pytest.raises(TypeError):
        pickle.dumps(ring)
