"""Ordering keys as bytes and as text for a person."""

from __future__ import annotations

from collections.abc import Hashable


def encode(key: Hashable) -> bytes:
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


def decode(encoded: bytes) -> Hashable:
    """Decode the result of `encode`."""
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"b":
        return rest
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"a":
        return (rest.decode(),)
    partition, _, topic = rest.decode().partition(":")
    return (topic, int(partition))


def raw(encoded: bytes) -> str | None:
    """Text of a key, unescaped; None of a key that is not text."""
    try:
        return encoded[1:].decode()
    except UnicodeDecodeError:
        return None


def shown(encoded: bytes) -> str:
    """Text of a key for a person and for command lines; hex of a key that is not text.

    Unprintable characters are escaped: no two keys have the same text.
    """
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"p":
        partition, _, topic = rest.decode().partition(":")
        return f"{topic}/{partition}"
    text = raw(encoded)
    if text is None:
        return f"0x{rest.hex()}"
    if text.startswith("0x"):
        return f"\\x30{_printable(text[1:])}"
    return _printable(text)


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() and each != "\\" else each.encode("unicode_escape").decode() for each in text
    )
