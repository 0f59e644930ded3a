"""Ordering keys as bytes and back, and as a person reads them."""

from __future__ import annotations

from collections.abc import Hashable


def encode(key: Hashable) -> bytes:
    """Bytes of a lane's key: a message's own key, a rendered template, or a (topic, partition).

    The position of a message that has no key, in a tuple of one, is a key of its own.
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
    """The key that `encode` was given."""
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"b":
        return rest
    if kind == b"s":
        return rest.decode("utf-8", "surrogatepass")
    if kind == b"a":
        return (rest.decode(),)
    partition, _, topic = rest.decode().partition(":")
    return (topic, int(partition))


def shown(encoded: bytes) -> str:
    """For a person: the text of a key; hex of what is no text."""
    kind, rest = encoded[:1], encoded[1:]
    if kind == b"p":
        partition, _, topic = rest.decode().partition(":")
        return f"{topic}/{partition}"
    try:
        text = rest.decode()
    except UnicodeDecodeError:
        return f"0x{rest.hex()}"
    return text
