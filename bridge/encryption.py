"""Encryption of payloads at rest: AES-256-GCM under the keys of an installation.

A sealed value begins with a zero byte, which begins neither text of JSON nor a message of protobuf:

    zero, version (1), fingerprint of the key (8 bytes), salt (16), counter (8), ciphertext, tag (16)

Each process draws a salt, derives its own key from it, and counts its values under that key: however many values are
written, no nonce is used twice under one key. The place of a value (its table, column and row) is authenticated with
it: a value that was moved elsewhere is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
HEAD = b"\0\x01"
"""First bytes of every sealed value."""

_FINGERPRINT = slice(2, 10)
_SALT = slice(10, 26)
_COUNTER = slice(26, 34)
_BODY = 34
_TAG = 16
OVERHEAD = _BODY + _TAG
"""Bytes of a sealed value beyond the value itself."""

_CIPHERS = 1024
"""Derived keys kept in memory: one per process that ever wrote, until its values are rewritten."""


class KeyProblem(ValueError):
    """Raised when keys cannot be used. The text is a sentence that quotes no key."""


class Unsealable(ValueError):
    """Raised when a value cannot be decrypted. The text is a sentence that quotes no value."""


@dataclass(frozen=True, slots=True)
class Key:
    """Encryption key.

    id: its name in files, messages and logs.
    material: 32 random bytes.
    """

    id: str
    material: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.id or len(self.id) > 100 or not self.id.isprintable():
            raise KeyProblem("the id of a key has 1 to 100 printable characters")
        if len(self.material) != KEY_BYTES:
            raise KeyProblem(f"key {self.id!r}: has {len(self.material)} bytes, not {KEY_BYTES}")

    @property
    def fingerprint(self) -> bytes:
        """Identity of the key, which reveals nothing about it."""
        return _derived(self.material, b"", b"durable-bridge fingerprint")[:8]


class KeyProvider(Protocol):
    """Protocol of a team's own source of keys, for `encryption: {provider: "module:function"}`."""

    def __call__(self) -> Iterable[Key]:
        """Keys, the encrypting one first. Called at each start, in a thread. Raises: any exception."""
        ...


class Keyring:
    """Keys that decrypt. The first one encrypts. Used from any thread.

    active: False to write new values in plain.
    accepts_plain: False to refuse stored values that are not encrypted.
    """

    def __init__(self, keys: Sequence[Key], *, active: bool = True, accepts_plain: bool = True) -> None:
        """Create a keyring. Raises: KeyProblem."""
        if not keys:
            raise KeyProblem("there is no key")
        self.active = active
        self.accepts_plain = accepts_plain
        self.current = keys[0]
        self.ids: dict[bytes, str] = {}
        """Ids of the keys by fingerprint."""
        self._materials: dict[bytes, bytes] = {}
        for key in keys:
            if key.id in self.ids.values():
                raise KeyProblem(f"two keys have the id {key.id!r}")
            if key.fingerprint in self.ids:
                raise KeyProblem(f"{self.ids[key.fingerprint]!r} and {key.id!r} are the same key")
            self.ids[key.fingerprint] = key.id
            self._materials[key.fingerprint] = key.material
        self.fingerprint = self.current.fingerprint
        self._cipher: Callable[[bytes, bytes], AESGCM] = lru_cache(_CIPHERS)(self._derive)
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        salt = os.urandom(16)
        self._head = HEAD + self.fingerprint + salt
        self._count = count(1)
        self._encrypt = self._cipher(self.fingerprint, salt).encrypt

    def _derive(self, fingerprint: bytes, salt: bytes) -> AESGCM:
        return AESGCM(_derived(self._materials[fingerprint], salt, b"durable-bridge payload"))

    def seal(self, value: bytes, place: bytes) -> bytes:
        """Encrypt a value for its place."""
        if self._process != os.getpid():
            # A forked process would continue with the same counter
            self._begin()
        counter = next(self._count).to_bytes(8, "big")
        return self._head + counter + self._encrypt(_nonce(counter), value, place)

    def open(self, sealed: bytes, place: bytes) -> bytes:
        """Decrypt a value that was sealed for this place. Raises: Unsealable."""
        fingerprint = sealed[_FINGERPRINT]
        if not is_sealed(sealed) or len(sealed) < OVERHEAD:
            raise Unsealable("is cut off, or of a newer version")
        if fingerprint not in self._materials:
            raise Unsealable(f"is encrypted with a key that is not there (fingerprint {fingerprint.hex()})")
        try:
            return self._cipher(fingerprint, sealed[_SALT]).decrypt(_nonce(sealed[_COUNTER]), sealed[_BODY:], place)
        except InvalidTag:
            raise Unsealable(
                f"cannot be decrypted with key {self.ids[fingerprint]!r}: it was altered, or belongs elsewhere"
            ) from None


def is_sealed(value: bytes) -> bool:
    return value.startswith(HEAD)


def _nonce(counter: bytes) -> bytes:
    return b"\0\0\0\0" + counter


def _derived(material: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), KEY_BYTES, salt, info).derive(material)
