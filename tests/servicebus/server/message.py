"""Stored message: the sender's sections byte for byte, and the fields that the broker adds (part 3.2)."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.decoder import decode, elements, pairs, skip
from tests.servicebus.server.amqp.encoder import NULL
from tests.servicebus.server.amqp.values import Malformed

HEADER, DELIVERY_ANNOTATIONS, ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES = range(0x70, 0x75)
DATA, SEQUENCE, VALUE, FOOTER = range(0x75, 0x79)
BATCH_FORMAT = 0x80013700
ACTIVE, DEFERRED, SCHEDULED = 0, 1, 2

_SEQUENCE_NUMBER = encoder.symbol("x-opt-sequence-number")
_ENQUEUED_SEQUENCE_NUMBER = encoder.symbol("x-opt-enqueue-sequence-number")
_ENQUEUED = encoder.symbol("x-opt-enqueued-time")
_LOCKED_UNTIL = encoder.symbol("x-opt-locked-until")
_STATE = encoder.symbol("x-opt-message-state")
_LOCK_TOKEN = encoder.symbol("x-opt-lock-token")
_OURS = {
    decode(key)[0]
    for key in (_SEQUENCE_NUMBER, _ENQUEUED_SEQUENCE_NUMBER, _ENQUEUED, _LOCKED_UNTIL, _STATE, _LOCK_TOKEN)
}
REASON, DESCRIPTION = "DeadLetterReason", "DeadLetterErrorDescription"


def sections(raw: bytes) -> list[tuple[int, int, int, int]]:
    """Return code, start, offset of the value and end of every section. Raises: Malformed."""
    found, at = [], 0
    while at < len(raw):
        if raw[at] != 0:
            raise Malformed("a message section without a descriptor")
        code, value = decode(raw, at + 1)
        end = skip(raw, value)
        if not isinstance(code, int):
            raise Malformed(f"message section {code!r}")
        found.append((code, at, value, end))
        at = end
    return found


class Message:
    """Message in the broker. Times are milliseconds on the server's clock; ttl is in milliseconds."""

    __slots__ = (
        "annotations",
        "application_properties",
        "body",
        "dead_letter_description",
        "dead_letter_reason",
        "delivery_annotations",
        "delivery_count",
        "durable",
        "enqueued",
        "enqueued_sequence_number",
        "expires",
        "footer",
        "locked_until",
        "message_id",
        "priority",
        "properties",
        "scheduled_for",
        "sequence_number",
        "session_id",
        "state",
        "timer",
        "token",
        "ttl",
        "was_deferred",
    )

    def __init__(self, raw: bytes) -> None:
        """Parse an encoded message. Raises: Malformed."""
        self.durable: bool | None = None
        self.priority: int | None = None
        self.ttl: int | None = None
        self.annotations: list[tuple[bytes, bytes]] = []
        self.delivery_annotations: list[tuple[bytes, bytes]] = []
        self.properties = self.application_properties = self.body = self.footer = b""
        self.message_id: Any = None
        self.session_id: str | None = None
        self.scheduled_for: int | None = None
        self.sequence_number = self.enqueued_sequence_number = 0
        self.enqueued = self.delivery_count = self.locked_until = 0
        self.expires: int | None = None
        self.state = ACTIVE
        self.was_deferred = False
        self.token: uuid.UUID | None = None
        self.timer: asyncio.TimerHandle | None = None
        """Timer of the schedule, the time to live or the lock; at most one runs at a time."""
        self.dead_letter_reason: str | None = None
        self.dead_letter_description: str | None = None
        self._parse(raw)

    def _parse(self, raw: bytes) -> None:
        body = []
        for code, start, value, end in sections(raw):
            if code == HEADER:
                fields = _list(raw, value) + [None] * 3
                self.durable, self.priority, self.ttl = fields[:3]
            elif code == ANNOTATIONS:
                self._take_annotations(raw, value)
            elif code == PROPERTIES:
                self.properties = raw[start:end]
                fields = _list(raw, value) + [None] * 11
                self.message_id, self.session_id = fields[0], fields[10]
            elif code == APPLICATION_PROPERTIES:
                self.application_properties = raw[start:end]
            elif code in (DATA, SEQUENCE, VALUE):
                body.append(raw[start:end])
            elif code == FOOTER:
                self.footer = raw[start:end]
            elif code == DELIVERY_ANNOTATIONS:
                # Delivery annotations are for one hop in the standard; the service forwards them
                own = pairs(raw, value)
                self.delivery_annotations = [pair for pair in own if decode(pair[0])[0] != "x-opt-lock-token"]
            else:
                raise Malformed(f"message section 0x{code:02x}")
        self.body = b"".join(body)
        if self.message_id is None:
            # The JavaScript SDK's lock renewer refuses a message without an id, so the service must stamp one
            self.message_id = uuid.uuid4().hex
            kept = elements(self.properties, skip(self.properties, 1)) if self.properties else []
            fields_ = [encoder.string(self.message_id), *kept[1:]]
            self.properties = encoder.described(PROPERTIES, encoder.sequence(fields_))

    def _take_annotations(self, raw: bytes, value: int) -> None:
        for key, content in pairs(raw, value):
            name = decode(key)[0]
            if name == "x-opt-scheduled-enqueue-time":
                self.scheduled_for = decode(content)[0]
            if name not in _OURS:
                self.annotations.append((key, content))

    def copy(self) -> Message:
        """Copy the message for another subscription."""
        twin = object.__new__(Message)
        for name in Message.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.annotations = list(self.annotations)
        return twin

    def read_properties(self) -> list[Any]:
        """Return the thirteen fields of the properties section."""
        fields = decode(self.properties, skip(self.properties, 1))[0] if self.properties else []
        return fields + [None] * (13 - len(fields))

    def read_application_properties(self) -> dict[str, Any]:
        raw = self.application_properties
        return dict(decode(raw, skip(raw, 1))[0]) if raw else {}

    def modify(self, changes: list[tuple[bytes, bytes]]) -> None:
        """Set application properties. changes: encoded names and values."""
        if not changes:
            return
        names = {str(decode(name)[0]): value for name, value in changes}
        raw = self.application_properties
        kept = [pair for pair in (pairs(raw, skip(raw, 1)) if raw else ()) if decode(pair[0])[0] not in names]
        kept += [(encoder.string(name), value) for name, value in names.items()]
        self.application_properties = encoder.described(APPLICATION_PROPERTIES, encoder.mapping(kept))

    def encode(self, *, peeked: bool = False) -> bytes:
        """Encode the message for a receiver."""
        parts = [self._header()]
        own = list(self.delivery_annotations)
        if self.token is not None and not peeked:
            # Receivers find the lock token here when a message has no delivery tag
            own.append((_LOCK_TOKEN, encoder.guid(self.token)))
        parts.append(encoder.described(DELIVERY_ANNOTATIONS, encoder.mapping(own)))
        parts.append(encoder.described(ANNOTATIONS, encoder.mapping(self._annotations(peeked))))
        parts.append(self.properties)
        parts.append(self.encode_application_properties())
        parts.append(self.body)
        parts.append(self.footer)
        return b"".join(parts)

    def _header(self) -> bytes:
        fields = [
            encoder.boolean(self.durable),
            encoder.ubyte(self.priority),
            encoder.uint(self.ttl),
            NULL,
            encoder.full_uint(self.delivery_count),
        ]
        return encoder.described(HEADER, encoder.sequence(fields))

    def _annotations(self, peeked: bool) -> list[tuple[bytes, bytes]]:
        added = [
            *self.annotations,
            (_SEQUENCE_NUMBER, encoder.int64(self.sequence_number)),
            (_ENQUEUED, encoder.timestamp(self.enqueued)),
        ]
        if self.enqueued_sequence_number != self.sequence_number:
            added.append((_ENQUEUED_SEQUENCE_NUMBER, encoder.int64(self.enqueued_sequence_number)))
        if self.token is not None and not peeked:
            added.append((_LOCKED_UNTIL, encoder.timestamp(self.locked_until)))
        if peeked or self.state:
            added.append((_STATE, encoder.int32(self.state)))
        return added

    def encode_application_properties(self) -> bytes:
        """Encode the application properties, with the cause of a dead letter; empty when there are none."""
        causes = ((REASON, self.dead_letter_reason), (DESCRIPTION, self.dead_letter_description))
        if self.dead_letter_reason is None and self.dead_letter_description is None:
            return self.application_properties
        raw = self.application_properties
        kept = pairs(raw, skip(raw, 1)) if raw else []
        kept = [pair for pair in kept if decode(pair[0])[0] not in (REASON, DESCRIPTION)]
        kept += [(encoder.string(name), encoder.string(text)) for name, text in causes if text is not None]
        return encoder.described(APPLICATION_PROPERTIES, encoder.mapping(kept))


def _list(raw: bytes, at: int) -> list[Any]:
    value = decode(raw, at)[0]
    if not isinstance(value, list):
        raise Malformed("a message section that is no list")
    return value


def split_batch(raw: bytes) -> list[bytes]:
    """Return the messages of a batch envelope (BATCH_FORMAT), one data section each. Raises: Malformed."""
    found = []
    for code, _, value, _ in sections(raw):
        if code == DATA:
            content = decode(raw, value)[0]
            if not isinstance(content, bytes):
                raise Malformed("a batch whose data is not binary")
            found.append(content)
    return found
