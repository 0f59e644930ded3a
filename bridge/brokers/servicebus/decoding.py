"""Decoding of messages from their encoded sections. Decoding never raises: values that the SDK cannot decode are marked
and kept.

The SDK's decoder stops at the first unknown value and loses the whole message. This module decodes every section by
itself, and every entry within a section that fails. Types that the SDK lacks are entered into its table of decoders, as
is a limit for arrays of values without bytes.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from azure.servicebus._pyamqp import _decode
from azure.servicebus._pyamqp.message import Header, Message, Properties

from bridge.brokers.servicebus.decimals import char, decimal

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

_EMPTY_ELEMENTS = 16
"""Most elements of an array whose elements take no bytes. Without this limit ten bytes become half a megabyte."""

_STRUCTURED = 1024 * 1024
"""Most bytes of a list or map that are decoded: each byte can become fifty in memory."""

_STRINGS = (0xA0, 0xA1, 0xA3, 0xB0, 0xB1, 0xB3)

_SMALL = 0x53
"""Constructor of the short form of descriptors."""

_BINARY = {0xA0: 2, 0xB0: 5}
"""Constructors of binary values, each with the offset of its content."""

_NARROW, _WIDE = frozenset((0xA0, 0xC0, 0xC1)), frozenset((0xB0, 0xD0, 0xD1))
"""Constructors of most sections, with their sizes in one byte and in four."""

_CUT = "a value that ends after the message"

_EMPTY_CODES = range(0x40, 0x46)
_COMPOUND = (list, dict)
_GROUP_ID = 10


@dataclass(frozen=True, slots=True)
class Fault:
    """Part of a message that cannot be decoded. raw: the whole message as received. key_known: `group-id` is not
    affected.
    """

    word: str
    detail: str
    key_known: bool
    raw: bytes


class Received(Message):
    """A message of the SDK with further facts that the bridge needs."""

    fault: Fault | None
    size: int
    """Encoded size in bytes."""
    encoded: bytes | None = None
    """The message as received; kept for peeked messages and for messages that contain a list or map."""


class Malformed(ValueError):
    """The encoding itself is broken."""


def decode(payload: bytes | bytearray | memoryview, *, named: bool = False) -> Received:
    """Decode all that can be decoded. Never raises.

    named: the lock token came beside the message; delivery annotations are skipped.
    """
    buffer = memoryview(payload)
    found: dict[str, Any] = {}
    troubles: list[str] = []
    key_known = True
    try:
        for code, value in sections(buffer):
            if named and code == DELIVERY_ANNOTATIONS:
                continue
            trouble, key = _take(code, value, found)
            key_known = key_known and key
            if trouble:
                troubles.append(f"the {_NAMES[code]}: {trouble}")
    except Malformed as error:
        troubles.append(str(error))
        key_known = key_known and "properties" in found
    message = Received(**found)
    message.size = len(buffer)
    message.fault = None
    if _structured(found):
        message.encoded = buffer.tobytes()
    if troubles:
        detail = f"the AMQP message cannot be decoded; {'; '.join(troubles)}"
        message.fault = Fault("amqp_value", detail, key_known, buffer.tobytes())
    return message


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
        found["message_annotations"], trouble = _annotations(value)
        return trouble, True
    elif code == PROPERTIES:
        fields, wrong = _fields(value, 13)
        found["properties"] = Properties(*fields)
        return ", ".join(wrong.values()), _GROUP_ID not in wrong and -1 not in wrong
    elif code == APPLICATION_PROPERTIES:
        found["application_properties"], trouble = _mapping(value)
        return trouble, True
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
    found, trouble = _mapping(value)
    if not isinstance(found.get(SEQUENCE_NUMBER, 0), int):
        del found[SEQUENCE_NUMBER]
    for name in _TIMES:
        if name in found and not (isinstance(found[name], int) and 0 <= found[name] <= _LATEST):
            del found[name]
    # Other annotations are not used: one that cannot be decoded matters only when the whole map is broken
    return found, trouble if trouble.startswith("broken") else ""


def _mapping(value: memoryview) -> tuple[dict[Any, Any], str]:
    try:
        whole = value_of(value)
        if isinstance(whole, dict):
            return whole, ""
        return {}, f"broken: a {type(whole).__name__} and not a map"
    except Exception as error:
        trouble = _explain(error)
    found: dict[Any, Any] = {}
    try:
        parts = elements(value)
        for name, content in zip(parts, parts, strict=True):
            try:
                found[value_of(name)] = value_of(content)
            except Exception:  # noqa: S112 -- `trouble` has it
                continue
    except ValueError:
        return found, f"broken: {trouble}"
    return found, trouble


def _fields(value: memoryview, count: int) -> tuple[list[Any], dict[int, str]]:
    """Fields of a list, None for an absent one, and the faults by field number; -1 stands for all fields."""
    try:
        whole = value_of(value)
        if isinstance(whole, list) and len(whole) <= count:
            whole.extend([None] * (count - len(whole)))
            return whole, {}
        return [None] * count, {-1: f"not a list of at most {count} fields"}
    except Exception as error:
        trouble = _explain(error)
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
        wrong[-1] = trouble
    return fields, wrong or {-1: trouble}


def value_of(buffer: memoryview) -> Any:
    """Decode the one value in the buffer. Raises: any error of the SDK's decoders."""
    decoder = _decode._DECODE_BY_CONSTRUCTOR[buffer[0]]
    if decoder is None:
        raise Malformed(f"there is no AMQP type 0x{buffer[0]:02x}")
    rest, value = decoder(buffer[1:])
    if rest:
        raise Malformed("a size and a count that contradict each other")
    return value


def _explain(error: Exception) -> str:
    """Sentence about the error without any content of the message."""
    if isinstance(error, Malformed):
        return str(error)
    text = str(error)
    if "nesting" in text:
        return f"nested deeper than {_decode._MAX_NESTING_DEPTH} levels"
    if "count" in text and "exceeds" in text:
        return f"more than {_decode._MAX_COMPOUND_COUNT} elements in one value"
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
            begin = _skip(buffer, at + 1)
            code = _long(buffer[at + 1 : begin])
        kind = buffer[begin] if begin + 4 < length else None
        if kind in _NARROW:
            end = begin + 2 + buffer[begin + 1]
        elif kind in _WIDE:
            end = begin + 5 + int.from_bytes(buffer[begin + 1 : begin + 5])
        else:
            end = _skip(buffer, begin)
        if end > length:
            raise Malformed(_CUT)
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


def elements(buffer: memoryview) -> Iterator[memoryview]:
    """Encoded elements of a list or map. Raises: ValueError where the structure is broken."""
    code = buffer[0]
    if code == 0x45:
        return
    if code not in (0xC0, 0xC1, 0xD0, 0xD1):
        raise Malformed("neither a list nor a map")
    at = 3 if code < 0xD0 else 9
    while at < len(buffer):
        end = _skip(buffer, at)
        yield buffer[at:end]
        at = end


_FIXED = {0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16}
_SHORT, _LONG = (0xA, 0xC, 0xE), (0xB, 0xD, 0xF)


def _skip(buffer: memoryview, at: int) -> int:
    """Offset of the end of the value that begins at `at`. Not recursive: a described value adds one value to skip."""
    pending = 1
    length = len(buffer)
    try:
        while pending:
            code = buffer[at]
            at += 1
            if code == 0:
                pending += 1
                continue
            kind = code >> 4
            if kind in _FIXED:
                at += _FIXED[kind]
            elif kind in _SHORT:
                at += 1 + buffer[at]
            elif kind in _LONG:
                at += 4 + int.from_bytes(buffer[at : at + 4])
            else:
                raise Malformed(f"there is no AMQP type 0x{code:02x}")
            if at > length:
                raise Malformed(_CUT)
            pending -= 1
    except IndexError:
        raise Malformed(_CUT) from None
    return at


# -- decoders that the SDK's table lacks


def _fixed(width: int, convert: Callable[[bytes], Any]) -> Callable[..., tuple[memoryview, Any]]:
    def decoder(buffer: memoryview, _depth: int = 0) -> tuple[memoryview, Any]:
        raw = buffer[:width].tobytes()
        if len(raw) < width:
            raise Malformed(_CUT)
        return buffer[width:], convert(raw)

    return decoder


def _bounded(original: Callable[..., Any], number: struct.Struct) -> Callable[..., Any]:
    """Wrap the SDK's decoder of an array with a limit for elements without bytes.

    The SDK's decoder leaves the constructor of an empty array in the buffer, where it is taken for the next value.
    """
    begin = 2 * number.size

    def decoder(buffer: memoryview, depth: int = 0) -> Any:
        size, count = number.unpack_from(buffer)[0], number.unpack_from(buffer, number.size)[0]
        if not count:
            return buffer[number.size + size :], []
        if count > _EMPTY_ELEMENTS:
            at = begin
            while buffer[at] == 0:  # described
                at = _skip(buffer, at + 1)
            if buffer[at] in _EMPTY_CODES:
                raise ValueError(f"AMQP array of more than {_EMPTY_ELEMENTS} elements without bytes")
        return original(buffer, depth)

    return decoder


def extend() -> bool:
    """Enter the missing decoders into the SDK's table; False when the table has an unknown form.

    Without the decoders only messages with such values become unreadable.
    """
    table: Any = getattr(_decode, "_DECODE_BY_CONSTRUCTOR", None)
    if not isinstance(table, list) or len(table) != 256:
        return False
    table[0x73] = _fixed(4, char)
    # The SDK's own decoder of decimal128 takes the coefficient for decimal digits
    table[0x74], table[0x84], table[0x94] = _fixed(4, decimal), _fixed(8, decimal), _fixed(16, decimal)
    for code, number in ((0xE0, struct.Struct(">B")), (0xF0, struct.Struct(">I"))):
        if not hasattr(table[code], "bounded"):
            table[code] = _bounded(table[code], number)
            table[code].bounded = True
    return True


def has_token(tag: Any, message: Message) -> bool:
    """Return whether a delivery has a lock token."""
    if isinstance(tag, bytes) and len(tag) == 16:
        return True
    return isinstance((message.delivery_annotations or {}).get(LOCK_TOKEN), uuid.UUID)
