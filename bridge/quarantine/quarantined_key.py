"""Read form of a quarantined key, and ordering keys as bytes and as text for a person."""

from __future__ import annotations

import base64
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from bridge.core.stored_message import StoredMessage
from bridge.waiting.claim import Claim


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """One quarantined message.

    mark: its delivery id.
    since: time of its quarantine, seconds since the Unix epoch.
    attempts: number of attempts.
    failed: seconds from its first failure to its quarantine.
    """

    mark: str
    message: StoredMessage
    since: float
    attempts: int
    failed: float

    @classmethod
    def of(cls, document: dict[str, Any]) -> QuarantinedMessage:
        return cls(
            document["mark"],
            StoredMessage.from_json(document["letter"]),
            document["since"],
            document.get("attempts", 1),
            document.get("failed", 0.0),
        )


@dataclass(frozen=True, slots=True)
class QuarantinedKey:
    """Quarantined key with its messages.

    key: bytes as of `encode_key`.
    until: as in `bridge.quarantine.state_machine.KeyQuarantine`.
    unsettled: pending operations may change the key.
    refused: marks of messages that were not accepted or dropped.
    """

    source: str
    key: bytes
    messages: tuple[QuarantinedMessage, ...]
    cause: dict[str, Any]
    until: float | None
    claim: Claim = field(default_factory=Claim)
    unsettled: bool = False
    refused: tuple[str, ...] = ()

    @classmethod
    def of(cls, document: dict[str, Any], unsettled: bool) -> QuarantinedKey:
        return cls(
            document["source"],
            base64.b64decode(document["key"]),
            tuple(QuarantinedMessage.of(each) for each in document["held"]),
            document["cause"],
            document["until"],
            Claim.of(document),
            unsettled,
            tuple(document.get("refused", ())),
        )


def encode_key(key: Hashable) -> bytes:
    """Encode a lane's key: a message's own key, a rendered template, or a (topic, partition).

    A tuple of one, the position of a message without a key, is a key of its own.
    """
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, tuple) and len(key) == 1:
        return f"a{key[0]}".encode()
    if isinstance(key, tuple):
        topic, partition = key
        return f"p{partition}:{topic}".encode()
    raise TypeError(f"a {type(key).__name__} is no ordering key")


def decode_key(encoded: bytes) -> Hashable:
    """Decode the result of `encode_key`."""
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"b":
        return rest
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"a":
        return (rest.decode(),)
    partition, _, topic = rest.decode().partition(":")
    return (topic, int(partition))


def raw_key(encoded: bytes) -> str | None:
    """Text of a key, unescaped; None of a key that is not text."""
    try:
        return encoded[1:].decode()
    except UnicodeDecodeError:
        return None


def shown_key(encoded: bytes) -> str:
    """Text of a key for a person and for command lines; hex of a key that is not text.

    Unprintable characters are escaped: no two keys have the same text.
    """
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"p":
        partition, _, topic = rest.decode().partition(":")
        return f"{topic}/{partition}"
    text = raw_key(encoded)
    if text is None:
        return f"0x{rest.hex()}"
    if text.startswith("0x"):
        return f"\\x30{_printable(text[1:])}"
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in text
    )
