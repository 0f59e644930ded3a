"""Reversible text form of bytes: different bytes are different texts. Pure.

UTF-8 becomes the text that it encodes. Every byte that is not UTF-8 becomes U+FDD0 and two hexadecimal digits: `4d fc`
is `M`, U+FDD0, `fc`. U+FDD0 is a noncharacter: UTF-8 can carry it, and Unicode keeps it out of interchange. Where UTF-8
text has U+FDD0 before two digits from `80` to `ff`, the three bytes of that U+FDD0 are written in the same form. All
other UTF-8 becomes the plain text.
"""

from __future__ import annotations

import re

MARK = "\ufdd0"
"""First character of the three that stand for one byte."""

_BYTE = f"{MARK}([89a-f][0-9a-f])"
_FORM = re.compile(_BYTE)
_TO_WRITE = re.compile(f"[\udc80-\udcff]|{MARK}(?=[89a-f][0-9a-f])")


def text_of(data: bytes) -> str:
    """Text of these bytes and of no others. Valid Unicode, without surrogates."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        pass
    else:
        if text.isascii() or MARK not in text:
            return text
    # Strict UTF-8 has no surrogates: each of them is a byte
    return _TO_WRITE.sub(_written, data.decode("utf-8", "surrogateescape"))


def bytes_of(text: str) -> bytes:
    """Bytes of a text made by `text_of`; UTF-8 of any other text. Raises: UnicodeEncodeError."""
    plain = text.encode()
    if MARK not in text:
        return plain
    data = _FORM.sub(lambda found: chr(0xDC00 + int(found[1], 16)), text).encode("utf-8", "surrogateescape")
    return data if text_of(data) == text else plain


def own_text(data: bytes) -> str:
    """Text that the bridge wrote as UTF-8, unchanged; `text_of` of any other bytes."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return text_of(data)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    data = MARK.encode() if found[0] == MARK else bytes((code - 0xDC00,))
    return "".join(f"{MARK}{byte:02x}" for byte in data)
