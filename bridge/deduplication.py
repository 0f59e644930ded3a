"""Which messages were seen: a bounded memory of their keys. Pure."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterable
from hashlib import blake2b

from bridge.origin import Key

REMEMBERED = 1000
"""Messages that are remembered when nobody says otherwise."""

_BYTES = 9
"""Of a digest: 72 bits, so that a new message is taken for one of 1,000 others once in 10^18 times."""

_LENGTH = 12
"""Characters of a digest as text."""


def digest(key: Key) -> str:
    """A message's key in 12 characters, the same in every process."""
    message_id, route, part = key
    seed = f"{len(message_id)}:{message_id}{part}:{route}".encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(blake2b(seed, digest_size=_BYTES).digest()).decode("ascii")


def remembers(text: str, key: Key) -> bool:
    """Whether the text of a memory has the message in it."""
    return bool(text) and digest(key) in set(_split(text))


class DeduplicationWindow:
    """The last messages, at most `limit` of them; older ones are forgotten in the order they came.

    Full keys where they are at hand, digests of what came from an earlier generation or a stored state.
    """

    __slots__ = ("_keys", "_old", "_text", "limit")

    def __init__(self, text: str = "", limit: int = REMEMBERED) -> None:
        self.limit = limit
        self._keys: dict[Key, None] = {}
        self._text = text
        self._old: dict[str, None] | None = None if text else {}

    def add(self, key: Key) -> bool:
        """Whether it is new; from now on it is not."""
        keys = self._keys
        old = self._old
        if old is None:
            # Read when it is needed: a replay may end before any message.
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
        """What `DeduplicationWindow(text)` begins with, oldest first."""
        old = self._text if self._old is None else "".join(self._old)
        return (old + "".join(digest(key) for key in self._keys))[-self.limit * _LENGTH :]


def _split(text: str) -> Iterable[str]:
    return (text[start : start + _LENGTH] for start in range(0, len(text), _LENGTH))
