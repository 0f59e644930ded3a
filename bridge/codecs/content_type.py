"""Content types and their meaning for a body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from bridge.codecs.limits import parse_json, without_mark
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError
from bridge.core.message import Message

_MEDIA = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}", re.ASCII)
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([A-Za-z0-9._:-]{1,40})\"?\s*(?:;|$)", re.IGNORECASE)
# Only true text encodings: Python also has codecs such as "idna" that are not
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "utf-16le", "utf-16be"})
_REMEMBERED = 256
"""Longest text, in characters, whose parse result is cached: senders choose these texts."""
_TEXT = frozenset({"application/xml", "application/yaml", "application/x-www-form-urlencoded"})


@dataclass(frozen=True, slots=True)
class ContentType:
    """A parsed content type. cloudevents: the type is the format of a whole event, not of its data."""

    media: str
    kind: Literal["json", "text", "binary"]
    charset: str
    cloudevents: Literal["no", "json", "batch", "unknown"]


def parse_content_type(text: str) -> ContentType:
    """Parse a content type. Raises: DecodeError when the text is not a media type."""
    return _remembered(text) if len(text) <= _REMEMBERED else _parse(text)


def _parse(text: str) -> ContentType:
    media = text.split(";", 1)[0].strip().lower()
    if not _MEDIA.fullmatch(media):
        raise DecodeError("the content type is not a media type like application/json")
    found = _CHARSET.search(text)
    kind: Literal["json", "text", "binary"] = "binary"
    if media in ("application/json", "text/json") or media.endswith("+json"):
        kind = "json"
    elif media.startswith("text/") or media in _TEXT or media.endswith("+xml"):
        kind = "text"
    cloudevents: Literal["no", "json", "batch", "unknown"] = "no"
    if media == "application/cloudevents+json":
        cloudevents = "json"
    elif media.startswith("application/cloudevents-batch"):
        cloudevents = "batch"
    elif media.startswith("application/cloudevents"):
        cloudevents = "unknown"
    return ContentType(media, kind, found[1].lower() if found else "utf-8", cloudevents)


_remembered = lru_cache(maxsize=256)(_parse)


def content_type_of(message: Message) -> str | None:
    """The broker's content-type property, otherwise the last header of that name in any case, otherwise None.

    The last header counts, as for rules and for Kafka's clients. Raises: DecodeError when the header is not text.
    """
    if message.content_type:
        return message.content_type
    for name, value in reversed(message.headers):
        if value is not None and len(name) == 12 and name.lower() == "content-type":
            try:
                return value.decode() or None
            except UnicodeDecodeError:
                raise DecodeError("the content-type header is not valid UTF-8") from None
    return None


def decode_data(body: bytes, content_type: ContentType, limits: LimitsConfig) -> Any:
    """Decode a body by content type into JSON types, `str` or `bytes`. Raises: DecodeError."""
    if content_type.kind == "json":
        return parse_json(body, limits)
    if content_type.kind == "text":
        return decode_text(body, content_type.charset)
    return body


def decode_text(body: bytes, charset: str = "utf-8") -> str:
    """Text of a body, without a byte order mark of UTF-8 or UTF-16.

    Raises: DecodeError when the body is not text in this charset, or the charset is unknown.
    """
    if charset not in _CHARSETS:
        raise DecodeError(f"the content type names a charset that is none of {', '.join(sorted(_CHARSETS))}")
    try:
        return (without_mark(body) if charset in ("utf-8", "utf8") else body).decode(charset)
    except UnicodeDecodeError as error:
        raise DecodeError(f"the body is not valid {charset.upper()} at byte {error.start}") from None
