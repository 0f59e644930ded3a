"""Headers as bytes: per header two lengths, then name and value. Order and repeated names are kept.

A null value has the length 2^32 - 1 and no bytes.
"""

from __future__ import annotations

import struct

from bridge.core.message import Headers

_LENGTHS = struct.Struct(">II")
_NULL = 0xFFFFFFFF


def encode(headers: Headers) -> bytes:
    """Bytes for the log; empty for no headers."""
    parts: list[bytes] = []
    for name, value in headers:
        # Surrogates cannot come from a broker, but a caller's name must be returned unchanged
        encoded = name.encode("utf-8", "surrogatepass")
        parts += (_LENGTHS.pack(len(encoded), _NULL if value is None else len(value)), encoded, value or b"")
    return b"".join(parts)


def decode(data: bytes) -> Headers:
    """Headers that were given to `encode`. Raises: ValueError when the data was not written by `encode`."""
    headers: list[tuple[str, bytes | None]] = []
    at, end = 0, len(data)
    while at < end:
        if at + 8 > end:
            raise ValueError("a length is cut off")
        name_size, value_size = _LENGTHS.unpack_from(data, at)
        at += 8
        value_at = at + name_size
        name = data[at:value_at].decode("utf-8", "surrogatepass")
        at = value_at
        if value_at + (0 if value_size == _NULL else value_size) > end:
            raise ValueError("a length points past the end")
        if value_size == _NULL:
            headers.append((name, None))
            continue
        at += value_size
        headers.append((name, data[value_at:at]))
    return tuple(headers)
