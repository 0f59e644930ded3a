"""Bounded memory of the keys of seen messages. Pure."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b

from bridge.core.origin import CommandKey

REMEMBERED = 1000
"""Default number of remembered messages."""

_BYTES = 9
"""Bytes of a digest. 72 bits: a new message is mistaken for one of 1,000 others once in 10^18 times."""

_LENGTH = 12
"""Characters of a digest as text."""


def digest(key: CommandKey) -> str:
    """Digest of a message's key in 12 characters, the same in every process."""
    message_id, route, part = key
    seed = f"{len(message_id)}:{message_id}{part}:{route}".encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(blake2b(seed, digest_size=_BYTES).digest()).decode("ascii")


def remembers(text: str, key: CommandKey) -> bool:
    """True when the text of a memory contains the message."""
    return bool(text) and digest(key) in set(_split(text))


class DeduplicationWindow:
    """Keys of the last `limit` messages; the oldest are forgotten first.

    Messages of this execution are kept as full keys, those of an earlier execution or a stored state as digests.
    """

    __slots__ = ("_keys", "_old", "_text", "limit")

    def __init__(self, text: str = "", limit: int = REMEMBERED) -> None:
        self.limit = limit
        self._keys: dict[CommandKey, None] = {}
        self._text = text
        self._old: dict[str, None] | None = None if text else {}

    def add(self, key: CommandKey) -> bool:
        """Add a message; False when it is a duplicate."""
        keys = self._keys
        old = self._old
        if old is None:
            # Parsed on first use: a replay may end before any message
            old = self._old = dict.fromkeys(_split(self._text))
        if key in keys or (old and digest(key) in old):
            return False
        keys[key] = None
        while len(keys) + len(old) > self.limit:
            if old:
                del old[next(iter(old))]
            else:
                del keys[next(iter(keys))]
        return True

    def text(self) -> str:
        """Stored form, to be given to `DeduplicationWindow(text)`. Oldest first."""
        old = self._text if self._old is None else "".join(self._old)
        return (old + "".join(digest(key) for key in self._keys))[-self.limit * _LENGTH :]


def _split(text: str) -> Iterable[str]:
    return (text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH))
