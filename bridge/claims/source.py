"""Messages of a source whose payload lies elsewhere: the reference in them, and the message with its payload."""

from __future__ import annotations

import base64
import codecs
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from bridge.claims.fetch import PayloadFetcher
from bridge.config.model.claims import ClaimCheckConfig
from bridge.core.bytetext import compact_json
from bridge.core.errors import ClaimDamaged, PayloadTooDeep
from bridge.core.message import Message

MOST_BYTES = 256 * 1024
"""Size up to which a message may be one with a reference in its body: larger ones have their payload."""

_PREFIXES = ("ce_", "cloudEvents:", "cloudEvents_")


class ClaimChecks:
    """Claim checks of one source. Safe to share.

    size: bytes that one payload may have.
    """

    def __init__(self, config: ClaimCheckConfig, limit: int) -> None:
        """Prepare the claim checks. limit: largest payload in bytes. Raises: ValueError for a prefix that is none."""
        self.size = limit
        self._fetcher = PayloadFetcher(config, limit)
        self._header = config.header
        self._path = None if config.path is None else config.path.split(".")[1:]
        self._attribute = config.attribute
        self._digest = config.digest
        self.replaces_body = self._path is None
        """The payload takes the place of all of a body, or of its data, but for the reference: edits of it are lost."""
        self._attribute_headers = {f"{each}{self._attribute}".lower() for each in _PREFIXES}

    def refers(self, message: Message) -> bool:
        """True when the message may have a reference in the place of its payload."""
        if message.unreadable is not None:
            return False
        body = message.body
        if self._header is not None:
            return _has_header(message, {self._header.lower()})
        if self._path is not None:
            return body is not None and len(body) <= MOST_BYTES
        if _has_header(message, self._attribute_headers):
            return True
        return body is not None and len(body) <= MOST_BYTES and f'"{self._attribute}"'.encode() in body

    async def resolve(self, message: Message) -> Message:
        """Message with its payload in the place of the reference; the message itself when it has no reference.

        Raises: MessageError (also ClaimDenied, ClaimNotFound, ClaimTooLarge, ClaimDamaged), ClaimStoreUnavailable.
        """
        if self._header is not None:
            name, reference = self._header, _header(message, self._header)
            return message if reference is None else await self._replaced(message, reference, {name.lower()})
        if self._path is not None:
            reference = _at(_object(message.body), self._path)
            return message if reference is None else await self._replaced(message, reference, set())
        reference = self._attribute_header(message, self._attribute)
        if reference is not None:
            return await self._replaced(message, reference, self._attribute_headers)
        return await self._structured(message)

    async def _replaced(self, message: Message, reference: str, gone: set[str]) -> Message:
        digest = None
        if self._digest is not None:
            digest = _header(message, self._digest) or self._attribute_header(message, self._digest)
        body = await self._fetcher.fetch(reference, digest)
        headers = tuple(header for header in message.headers if header[0].lower() not in gone)
        return replace(message, body=body, headers=headers, native=None)

    async def _structured(self, message: Message) -> Message:
        """CloudEvent in structured mode: its data is written into it as it is fetched."""
        event = dict(_object(message.body))
        reference = event.pop(self._attribute, None)
        if not isinstance(reference, str) or "specversion" not in event:
            return message
        digest = None if self._digest is None else event.get(self._digest)
        if digest is not None and not isinstance(digest, str):
            raise ClaimDamaged("the digest of the payload is no text")
        data = await self._fetcher.fetch(reference, digest)
        event.pop("data", None)
        event.pop("data_base64", None)
        media = str(event.get("datacontenttype") or "application/json").partition(";")[0].strip().lower()
        try:
            head = compact_json(event)[:-1]
        except RecursionError:
            raise _too_deep() from None
        if media == "application/json" or media.endswith("+json"):
            data = data.removeprefix(codecs.BOM_UTF8)
            try:
                orjson.loads(data)  # otherwise the data could end the event and add attributes to it
            except ValueError:
                raise ClaimDamaged("the payload is not JSON, which the content type of the event names") from None
            return replace(message, body=b'%b,"data":%b}' % (head, data), native=None)
        return replace(message, body=b'%b,"data_base64":"%b"}' % (head, base64.b64encode(data)), native=None)

    @staticmethod
    def _attribute_header(message: Message, name: str) -> str | None:
        return next((found for each in _PREFIXES if (found := _header(message, f"{each}{name}")) is not None), None)


def _has_header(message: Message, names: set[str]) -> bool:
    return any(value is not None and name.lower() in names for name, value in message.headers)


def _header(message: Message, name: str) -> str | None:
    """Last value of a header; None without one. Raises: ClaimDamaged for a value that is no text."""
    for found, value in reversed(message.headers):
        if value is not None and found.lower() == name.lower():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise ClaimDamaged("the reference to the payload, or its digest, is no text") from None
    return None


def _object(body: bytes | None) -> Mapping[str, Any]:
    """Object that a body is, with exact integers; an empty one for any other body. Raises: PayloadTooDeep."""
    text = (body or b"null").removeprefix(codecs.BOM_UTF8)
    try:
        orjson.loads(text)  # stricter, and the parser of the codecs; but integers of more than 64 bits become floats
        found = json.loads(text)
    except ValueError:
        return {}
    except RecursionError:
        raise _too_deep() from None
    return found if isinstance(found, dict) else {}


def _too_deep() -> PayloadTooDeep:
    return PayloadTooDeep("the body nests too deep to take its payload in")


def _at(value: Any, path: list[str]) -> str | None:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
