"""Reader and writer for numbers, texts and arrays of the Kafka protocol (versions without tagged fields)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")

_INT8, _INT16, _INT32, _INT64 = (struct.Struct(f">{code}") for code in "bhiq")


class Reader:
    """Parse the fields of a request."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _number(self, form: struct.Struct) -> int:
        (value,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return int(value)

    def int8(self) -> int:
        return self._number(_INT8)

    def int16(self) -> int:
        return self._number(_INT16)

    def int32(self) -> int:
        return self._number(_INT32)

    def int64(self) -> int:
        return self._number(_INT64)

    def _slice(self, size: int) -> bytes:
        self._at += size
        return bytes(self._data[self._at - size : self._at])

    def maybe_text(self) -> str | None:
        size = self.int16()
        return None if size < 0 else self._slice(size).decode()

    def text(self) -> str:
        return self.maybe_text() or ""

    def bytes(self) -> bytes:
        size = self.int32()
        return b"" if size < 0 else self._slice(size)

    def maybe_array(self, item: Callable[[], T]) -> list[T] | None:
        size = self.int32()
        return None if size < 0 else [item() for _ in range(size)]

    def array(self, item: Callable[[], T]) -> list[T]:
        return self.maybe_array(item) or []

    def by_topic(self, item: Callable[[], T]) -> list[tuple[str, list[T]]]:
        """Read an array of topics with an array of items each."""
        return self.array(lambda: (self.text(), self.array(item)))


class Writer:
    """Write the fields of a response; every method returns the writer."""

    def __init__(self) -> None:
        self.data = bytearray()

    def int8(self, value: int) -> Writer:
        self.data += _INT8.pack(value)
        return self

    def int16(self, value: int) -> Writer:
        self.data += _INT16.pack(value)
        return self

    def int32(self, value: int) -> Writer:
        self.data += _INT32.pack(value)
        return self

    def int64(self, value: int) -> Writer:
        self.data += _INT64.pack(value)
        return self

    def text(self, value: str | None) -> Writer:
        if value is None:
            return self.int16(-1)
        data = value.encode()
        self.int16(len(data)).data += data
        return self

    def bytes(self, value: bytes) -> Writer:
        self.int32(len(value)).data += value
        return self

    def array(self, items: Iterable[T], write: Callable[[T], Any]) -> Writer:
        listed = list(items)
        self.int32(len(listed))
        for item in listed:
            write(item)
        return self

    def by_topic(self, items: Iterable[tuple[str, Iterable[T]]], write: Callable[[T], Any]) -> Writer:
        """Write an array of topics with an array of items each."""
        return self.array(items, lambda pair: self.text(pair[0]).array(pair[1], write))
