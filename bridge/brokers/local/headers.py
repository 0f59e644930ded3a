"""Headers as bytes: per header two lengths, then name and value. Order and repeated names are kept."""

from __future__ import annotations

import struct

from bridge.message import Headers

_LENGTHS = struct.Struct(">II")


def encode(headers: Headers) -> bytes:
    """Bytes for the log; empty for no headers."""
    parts: list[bytes] = []
    for name, value in headers:
        # Surrogates cannot come from a broker, yet a caller's name must come back as it was.
        encoded = name.encode("utf-8", "surrogatepass")
        parts += (_LENGTHS.pack(len(encoded), len(value)), encoded, value)
    return b"".join(parts)


def decode(data: bytes) -> Headers:
    """What `encode` was given."""
    headers: list[tuple[str, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        name_size, value_size = _LENGTHS.unpack_from(data, at)
        at += 8
        value_at = at + name_size
        name = data[at:value_at].decode("utf-8", "surrogatepass")
        at = value_at + value_size
        headers.append((name, data[value_at:at]))
    return tuple(headers)
