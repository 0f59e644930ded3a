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


def raw(encoded: bytes) -> str | None:
    """The text of a key as it is, whatever is in it; None of what is no text."""
    try:
        return encoded[1:].decode()
    except UnicodeDecodeError:
        return None


def shown(encoded: bytes) -> str:
    """For a person, who can say it again on a command line: the text of a key; hex of what is no text.

    What cannot be printed is written out, so that no two keys are shown alike.
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
