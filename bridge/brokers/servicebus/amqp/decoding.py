"""Decoding of messages from their encoded sections. Decoding never raises: values that the SDK cannot decode are marked
and kept.

The SDK's decoder stops at the first unknown value and loses the whole message. This module decodes every section by
itself, and every entry within a section that fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp.values import CUT, Malformed, elements, skip, value_of
from bridge.brokers.servicebus.sdk_internals import AmqpMessage, Header, Properties

HEADER, DELIVERY_ANNOTATIONS, ANNOTATIONS, PROPERTIES, APPLICATION_PROPERTIES = range(0x70, 0x75)
DATA, SEQUENCE, VALUE, FOOTER = range(0x75, 0x79)

_NAMES = {
    HEADER: "header",
    ANNOTATIONS: "message annotations",
    PROPERTIES: "properties",
    APPLICATION_PROPERTIES: "application properties",
    DATA: "body",
    SEQUENCE: "body",
    VALUE: "body",
}
_SYMBOLS = {
    b"amqp:header:list": HEADER,
    b"amqp:delivery-annotations:map": DELIVERY_ANNOTATIONS,
    b"amqp:message-annotations:map": ANNOTATIONS,
    b"amqp:properties:list": PROPERTIES,
    b"amqp:application-properties:map": APPLICATION_PROPERTIES,
    b"amqp:data:binary": DATA,
    b"amqp:amqp-sequence:list": SEQUENCE,
    b"amqp:amqp-value:*": VALUE,
    b"amqp:footer:map": FOOTER,
}
"""Descriptors in their long form."""

SEQUENCE_NUMBER, ENQUEUED, LOCKED_UNTIL = b"x-opt-sequence-number", b"x-opt-enqueued-time", b"x-opt-locked-until"
LOCK_TOKEN = b"x-opt-lock-token"
_TIMES = (ENQUEUED, LOCKED_UNTIL)
_LATEST = 253402300799999
"""Latest time that a date can express, in milliseconds since the epoch."""

_STRUCTURED = 1024 * 1024
"""Most bytes of a list or map that are decoded: each byte can become fifty in memory."""

_STRINGS = (0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3)

_SMALL = 0x53
"""Constructor of the short form of descriptors."""

_BINARY = {0xA0: 2, 0xB0: 5}
"""Constructors of binary values, each with the offset of its content."""

_NARROW, _WIDE = frozenset((0xA0, 0xC0, 0xC1)), frozenset((0xB0, 0xD0, 0xD1))
"""Constructors of most sections, with their sizes in one byte and in four."""

_COMPOUND = (list, dict)
_GROUP_ID = 10


@dataclass(frozen=True, slots=True)
class DecodingFault:
    """Part of a message that cannot be decoded.

    raw: the whole message as received.
    key_known: `group-id` is not affected.
    """

    word: str
    detail: str
    key_known: bool
    raw: bytes


class DecodedAmqpMessage(AmqpMessage):
    """A message of the SDK with further facts that the bridge needs."""

    fault: DecodingFault | None
    size: int
    """Encoded size in bytes."""
    encoded: bytes | None
    """The message as received, where it was kept."""

    @classmethod
    def of(
        cls, sections: dict[str, Any], *, size: int, fault: DecodingFault | None, encoded: bytes | None
    ) -> DecodedAmqpMessage:
        """Message with these sections, by their names in the SDK."""
        self = cls(**sections)
        self.size, self.fault, self.encoded = size, fault, encoded
        return self


def decode(payload: bytes | bytearray | memoryview, *, named: bool = False, keep: bool = False) -> DecodedAmqpMessage:
    """Decode all that can be decoded. Never raises.

    named: the lock token came beside the message; delivery annotations are skipped.
    keep: keep the encoded form, which is always kept of messages that contain a list or map.
    """
    buffer = memoryview(payload)
    found: dict[str, Any] = {}
    problems: list[str] = []
    key_known = True
    try:
        for code, value in sections(buffer):
            if named and code == DELIVERY_ANNOTATIONS:
                continue
            problem, key = _take(code, value, found)
            key_known = key_known and key
            if problem:
                problems.append(f"the {_NAMES[code]}: {problem}")
    except Malformed as error:
        problems.append(str(error))
        key_known = key_known and "properties" in found
    fault = None
    if problems:
        detail = f"the AMQP message cannot be decoded; {'; '.join(problems)}"
        fault = DecodingFault("amqp_value", detail, key_known, buffer.tobytes())
    encoded = buffer.tobytes() if keep or _structured(found) else None
    return DecodedAmqpMessage.of(found, size=len(buffer), fault=fault, encoded=encoded)


def _structured(found: dict[str, Any]) -> bool:
    """Return whether the message contains a list or map, which JSON may not be able to express. Annotations do not
    count, since they are not passed on.
    """
    if "sequence" in found or isinstance(found.get("value"), _COMPOUND):
        return True
    values = (*found.get("application_properties", {}).values(), *found.get("properties", ()))
    return any(isinstance(each, _COMPOUND) for each in values)


def _take(code: int, value: memoryview, found: dict[str, Any]) -> tuple[str, bool]:
    """Decode one section into `found`. Returns its fault, empty without one, and whether the ordering key is
    unaffected.
    """
    if code == HEADER:
        fields, _ = _fields(value, 5)
        numbers: Any = [each if isinstance(each, int) else None for each in fields]
        found["header"] = Header(*numbers)
    elif code == DELIVERY_ANNOTATIONS:
        found["delivery_annotations"], _ = _mapping(value)
    elif code == ANNOTATIONS:
        found["message_annotations"], problem = _annotations(value)
        return problem, True
    elif code == PROPERTIES:
        fields, wrong = _fields(value, 13)
        found["properties"] = Properties(*fields)
        return ", ".join(wrong.values()), _GROUP_ID not in wrong and -1 not in wrong
    elif code == APPLICATION_PROPERTIES:
        found["application_properties"], problem = _mapping(value)
        return problem, True
    elif code == DATA and value[0] in _BINARY:
        found.setdefault("data", []).append(value[_BINARY[value[0]] :].tobytes())
    elif code != FOOTER:  # a footer is for signatures, which are not used here
        return _body(code, value, found), True
    return "", True


def _body(code: int, value: memoryview, found: dict[str, Any]) -> str:
    if len(value) > _STRUCTURED and code != DATA and value[0] not in _STRINGS:
        return f"a value of {len(value)} bytes that is neither binary nor a string; {_STRUCTURED} are decoded at most"
    try:
        content = value_of(value)
    except Exception as error:
        return _explain(error)
    if code == VALUE:
        found["value"] = content
    elif isinstance(content, bytes if code == DATA else list):
        found.setdefault("data" if code == DATA else "sequence", []).append(content)
    else:
        return "a data section that is not binary, or a sequence section that is not a list"
    return ""


def _annotations(value: memoryview) -> tuple[dict[Any, Any], str]:
    """Annotations that can be decoded. Those that the bridge relies on are present with the right type, or absent."""
    found, problem = _mapping(value)
    if not isinstance(found.get(SEQUENCE_NUMBER, 0), int):
        del found[SEQUENCE_NUMBER]
    for name in _TIMES:
        if name in found and not (isinstance(found[name], int) and 0 <= found[name] <= _LATEST):
            del found[name]
    # Other annotations are not used: one that cannot be decoded matters only when the whole map is broken
    return found, problem if problem.startswith("broken") else ""


def _mapping(value: memoryview) -> tuple[dict[Any, Any], str]:
    try:
        whole = value_of(value)
        if isinstance(whole, dict):
            return whole, ""
        return {}, f"broken: a {type(whole).__name__} and not a map"
    except Exception as error:
        problem = _explain(error)
    found: dict[Any, Any] = {}
    try:
        parts = elements(value)
        for name, content in zip(parts, parts, strict=True):
            try:
                found[value_of(name)] = value_of(content)
            except Exception:  # noqa: S112 -- `problem` has it
                continue
    except ValueError:
        return found, f"broken: {problem}"
    return found, problem


def _fields(value: memoryview, count: int) -> tuple[list[Any], dict[int, str]]:
    """Fields of a list, None for an absent one, and the faults by field number; -1 stands for all fields."""
    try:
        whole = value_of(value)
        if isinstance(whole, list) and len(whole) <= count:
            whole.extend([None] * (count - len(whole)))
            return whole, {}
        return [None] * count, {-1: f"not a list of at most {count} fields"}
    except Exception as error:
        problem = _explain(error)
    fields: list[Any] = [None] * count
    wrong: dict[int, str] = {}
    try:
        for number, content in enumerate(elements(value)):
            if number == count:
                return fields, {-1: f"more than {count} fields"}
            try:
                fields[number] = value_of(content)
            except Exception as error:
                wrong[number] = f"field {number + 1}: {_explain(error)}"
    except ValueError:
        wrong[-1] = problem
    return fields, wrong or {-1: problem}


def _explain(error: Exception) -> str:
    """Sentence about the error without any content of the message."""
    if isinstance(error, Malformed):
        return str(error)
    text = str(error)
    if "nesting" in text:
        return f"nested deeper than {sdk_internals.MAX_NESTING_DEPTH} levels"
    if "count" in text and "exceeds" in text:
        return f"more than {sdk_internals.MAX_COMPOUND_COUNT} elements in one value"
    if "NoneType" in text:
        return "a value of a type that AMQP does not have"
    if "unhashable" in text:
        return "a map whose key is a list or a map"
    if "AMQP" in text:
        return "an invalid value"
    return f"not decodable ({type(error).__name__})"


# -- the structure, without the values


def sections(buffer: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Code and encoded value of every section. Raises: Malformed."""
    at, length = 0, len(buffer)
    while at < length:
        if buffer[at] != 0:
            raise Malformed("a section without a descriptor")
        code: int | None
        if at + 2 < length and buffer[at + 1] == _SMALL:
            begin, code = at + 3, buffer[at + 2]
        else:
            begin = skip(buffer, at + 1)
            code = _long(buffer[at + 1 : begin])
        kind = buffer[begin] if begin + 4 < length else None
        if kind in _NARROW:
            end = begin + 2 + buffer[begin + 1]
        elif kind in _WIDE:
            end = begin + 5 + int.from_bytes(buffer[begin + 1 : begin + 5])
        else:
            end = skip(buffer, begin)
        if end > length:
            raise Malformed(CUT)
        if code is None or not HEADER <= code <= FOOTER:
            raise Malformed("a section of an unknown kind")
        yield code, buffer[begin:end]
        at = end


def _long(buffer: memoryview) -> int | None:
    try:
        code = value_of(buffer)
    except Exception:
        return None
    return _SYMBOLS.get(code) if isinstance(code, bytes) else code if isinstance(code, int) else None


def has_token(tag: Any, message: AmqpMessage) -> bool:
    """Return whether a delivery has a lock token."""
    if isinstance(tag, bytes) and len(tag) == 16:
        return True
    return isinstance((message.delivery_annotations or {}).get(LOCK_TOKEN), uuid.UUID)


# -- facts about a message of the SDK


def fault(raw: ServiceBusReceivedMessage) -> DecodingFault | None:
    """Fault of a message that could not be decoded completely; None for any other."""
    found: DecodingFault | None = getattr(sdk_internals.received(raw), "fault", None)
    return found


def encoded(raw: ServiceBusReceivedMessage) -> bytes | None:
    """Encoded message as received, where it was kept."""
    found: bytes | None = getattr(sdk_internals.received(raw), "encoded", None)
    return found


def size(raw: ServiceBusReceivedMessage) -> int:
    """Encoded size of a message in bytes; 0 when it is unknown."""
    return int(getattr(sdk_internals.received(raw), "size", 0))
