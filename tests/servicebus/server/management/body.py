"""Fields of a request body."""

from __future__ import annotations

import uuid
from typing import Any, TypeVar

from tests.servicebus.server.amqp.decoder import decode, pairs
from tests.servicebus.server.errors import Refusal

Answer = tuple[int, bytes]
"""Status and encoded body."""

OK, NO_CONTENT = 200, 204
T = TypeVar("T")


class Body:
    """Body of a request. Every reader raises a Refusal for a missing field or a wrong type."""

    def __init__(self, value: Any, raw: bytes = b"") -> None:
        """Wrap a decoded body. raw: the encoded map, for fields that must keep their AMQP type."""
        if not isinstance(value, dict):
            raise _wrong("The body is no map.")
        self._value, self._raw = value, raw

    def has(self, name: str) -> bool:
        return self._value.get(name) is not None

    def one(self, name: str, kind: type[T]) -> T:
        value = self._value.get(name)
        if not isinstance(value, kind):
            raise _wrong(f"'{name}' is missing, or not {kind.__name__}.")
        return value

    def maybe(self, name: str, kind: type[T]) -> T | None:
        return self.one(name, kind) if self.has(name) else None

    def many(self, name: str, kind: type[T]) -> list[T]:
        values = self.one(name, list)
        if not all(isinstance(value, kind) for value in values):
            raise _wrong(f"'{name}' holds something that is not {kind.__name__}.")
        return values

    def raw_map(self, name: str) -> list[tuple[bytes, bytes]]:
        """Return the encoded keys and values of a map; empty without such a field."""
        if self.maybe(name, dict) is None:
            return []
        return next(pairs(value) for key, value in pairs(self._raw) if decode(key)[0] == name)

    def tokens(self) -> list[uuid.UUID]:
        return self.many("lock-tokens", uuid.UUID)

    def sequence_numbers(self) -> list[int]:
        return self.many("sequence-numbers", int)


def _wrong(text: str) -> Refusal:
    return Refusal("com.microsoft:argument-error", text)
