"""Requests of a webhook: headers of CloudEvents' HTTP binding, and the signature of Standard Webhooks. Pure.

Sources: https://github.com/cloudevents/spec (v1.0.2, HTTP protocol binding, section 3) and
https://github.com/standard-webhooks/standard-webhooks (specification 1.0.0).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime

from bridge.core.errors import PublishRefused
from bridge.core.message import Message

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ENCODED = re.compile(r"[^\x21\x23\x24\x26-\x7e]")
"""Characters that the values of headers have percent-encoded: all but printable ASCII, and blank, `"` and `%`."""
_PREFIX = "ce_"
_RESERVED = frozenset(
    {"authorization", "connection", "content-length", "cookie", "expect", "host", "te", "trailer", "transfer-encoding",
     "upgrade"}
)  # fmt: skip
"""Headers of HTTP itself that no event may set."""


def content_of(message: Message) -> dict[str, str]:
    """Headers of a message's request, by name in lower case. Raises: PublishRefused for a header that HTTP lacks."""
    found: dict[str, str] = {}
    for header, value in message.headers:
        name = header.lower()
        if value is None:
            continue
        text = value.decode("utf-8", "replace")
        if name == "content-type":
            found[name] = text
            continue
        if name.startswith(_PREFIX):
            name = f"ce-{name.removeprefix(_PREFIX)}"
        if _NAME.fullmatch(name) is None or name in _RESERVED or name.startswith("webhook-"):
            raise PublishRefused(f"the header {header[:50]!r} cannot be sent to a webhook; remove it from the event")
        found[name] = encoded(text) if name.startswith("ce-") else _printable(header, text)
    if message.content_type is not None:
        found["content-type"] = message.content_type
    found.setdefault("content-type", "application/octet-stream")
    if not found["content-type"].isprintable() or not found["content-type"].isascii():
        raise PublishRefused("the content type has characters that no header can have")
    return found


def _printable(header: str, text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise PublishRefused(f"the header {header[:50]!r} has characters that HTTP cannot carry; encode them")
    return text


def encoded(text: str) -> str:
    """Value of an attribute as CloudEvents' binding encodes it (section 3.1.3.2)."""
    return _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def signature_headers(message_id: str, timestamp: int, body: bytes, keys: Sequence[bytes]) -> Iterator[tuple[str, str]]:
    """Headers of Standard Webhooks. timestamp: seconds since the Unix epoch. keys: none makes no signature."""
    yield "webhook-id", message_id
    yield "webhook-timestamp", str(timestamp)
    if keys:
        signed = f"{message_id}.{timestamp}.".encode() + body
        digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
        yield "webhook-signature", " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)


def id_of(message: Message) -> str:
    """Id that repeats of a message share: the event's own, or a digest of the body."""
    if message.message_id is None:
        return hashlib.sha256(message.body or b"").hexdigest()
    return encoded(message.message_id)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds for which an answer asks to wait; None without a valid header `Retry-After`. now: Unix time.

    Source: RFC 9110, section 10.2.3.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
