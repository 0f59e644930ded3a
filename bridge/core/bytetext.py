"""Reversible text form of bytes: different bytes are different texts. Pure.

UTF-8 becomes the text that it encodes. Every byte that is not UTF-8 becomes U+FDD0 and two hexadecimal digits: `4d fc`
is `M`, U+FDD0, `fc`. U+FDD0 is a noncharacter: UTF-8 can carry it, and Unicode keeps it out of interchange. Where UTF-8
text has U+FDD0 before two digits from `80` to `ff`, the three bytes of that U+FDD0 are written in the same form. All
other UTF-8 becomes the plain text.
"""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timedelta
from typing import Any

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


_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 -- the text says the zone
_CLOUDEVENTS = ("cloudEvents:", "cloudEvents_", "ce_")


def is_cloudevents_attribute(name: str) -> bool:
    """Report if a header is an attribute of a CloudEvent in binary mode."""
    return name.startswith(_CLOUDEVENTS)


def amqp_timestamp(milliseconds: int) -> str:
    """Format an AMQP timestamp as RFC 3339 in UTC; as its number where RFC 3339 has no such year."""
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return str(milliseconds)
    return moment.isoformat(timespec="milliseconds").removesuffix(".000") + "Z"


def amqp_binary(name: str, value: bytes) -> bytes:
    """Header value of AMQP binary: base64 in a CloudEvent attribute (by its specification), else unchanged."""
    return base64.b64encode(value) if is_cloudevents_attribute(name) else value


def compact_json(value: Any) -> bytes:
    """JSON without white space, in UTF-8, with integers of any size.

    Raises: RecursionError, TypeError; ValueError for NaN, Infinity, lone surrogates and cycles.
    """
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


_INVISIBLE = re.compile(
    r"[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def escape_invisible(text: str) -> str:
    """Escape characters of a JSON text that end lines, control a terminal, or reorder or hide text.

    JSON itself escapes those below U+0020.
    """
    return _INVISIBLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def printable(text: str) -> str:
    """Text for display, with control characters, which could control a terminal, replaced by escapes."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
