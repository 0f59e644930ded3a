"""Completed offsets above the committed offset, as text in the commit's metadata. Pure."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence

LIMIT = 4000
"""Longest text; brokers refuse more than 4096 bytes (`offset.metadata.max.bytes`)."""

_PREFIX = "bridge1:"
_RAW_LIMIT = (LIMIT - len(_PREFIX)) * 3 // 4
_FARTHEST = 1 << 20


def encode(base: int, done: Sequence[int]) -> str:
    """done: offsets at or above `base`, ascending. When not all fit, the highest are left out and processed again."""
    if not done:
        return ""
    span = min(done[-1] - base + 1, _FARTHEST)
    while span:
        bits = bytearray((span + 7) // 8)
        for offset in done:
            distance = offset - base
            if distance >= span:
                break
            bits[distance >> 3] |= 1 << (distance & 7)
        packed = zlib.compress(bytes(bits), 6)
        if len(packed) <= _RAW_LIMIT:
            return _PREFIX + base64.b64encode(packed).decode()
        span = span * 3 // 4
    return ""


def decode(base: int, text: str) -> list[int]:
    """Completed offsets at or above `base`, ascending. Metadata of other programs is ignored."""
    if not text.startswith(_PREFIX):
        return []
    try:
        unpack = zlib.decompressobj()
        bits = unpack.decompress(base64.b64decode(text[len(_PREFIX) :], validate=True), _FARTHEST // 8 + 1)
    except (binascii.Error, ValueError, zlib.error):
        return []
    return [base + (at << 3 | bit) for at, byte in enumerate(bits) if byte for bit in range(8) if byte >> bit & 1]
