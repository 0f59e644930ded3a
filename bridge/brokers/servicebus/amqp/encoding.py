"""Splitting of messages into encoded parts, and the reverse. Nothing decodes the values; they keep their AMQP types.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bridge.brokers.servicebus import sdk_internals
from bridge.brokers.servicebus.amqp import decoding
from bridge.brokers.servicebus.amqp.values import Malformed, elements, value_of
from bridge.brokers.servicebus.sdk_internals import TYPE, VALUE, AmqpMessage, EncodedSection, Header, Properties

NULL = b"\x40"
FIELDS: tuple[str, ...] = Properties._fields
"""Names of the fields of the properties section, in order."""

_EXPIRY, _TTL = FIELDS.index("absolute_expiry_time"), Header._fields.index("ttl")
_OF_THE_SERVICE = frozenset(
    {
        b"x-opt-sequence-number",
        b"x-opt-enqueue-sequence-number",
        b"x-opt-enqueued-time",
        b"x-opt-locked-until",
        b"x-opt-message-state",
        b"x-opt-deadletter-source",
        decoding.LOCK_TOKEN,
    }
)
"""Annotations that the service sets again on every message."""


class Raw(bytes):
    """One encoded value."""


@dataclass(slots=True)
class Parts:
    """The parts of a message that its sender determines, encoded.

    annotations, application, footer: values by decoded names.
    fields: of the properties section.
    body: codes of sections, each with its value; for a data section, its content. The expiry time is left out: it
    follows from `ttl`, and the service computes it from the time of arrival.
    """

    ttl: Raw | None
    annotations: dict[Any, Raw]
    fields: list[Raw | None]
    application: dict[Any, Raw]
    body: list[tuple[int, bytes]]
    footer: dict[Any, Raw]


def parse(payload: bytes) -> Parts:
    """Split a message into its parts. Raises: ValueError when the payload is not a message."""
    ttl: Raw | None = None
    fields: list[Raw | None] = [None] * len(FIELDS)
    named: dict[int, dict[Any, Raw]] = {}
    body: list[tuple[int, bytes]] = []
    for code, value in decoding.sections(memoryview(payload)):
        match code:
            case decoding.HEADER:
                ttl = _fields(value, len(Header._fields))[_TTL]
            case decoding.PROPERTIES:
                fields = _fields(value, len(FIELDS))
                fields[_EXPIRY] = None
            case decoding.ANNOTATIONS | decoding.APPLICATION_PROPERTIES | decoding.FOOTER:
                named[code] = _named(value)
            case decoding.DATA:
                content = value_of(value)
                if not isinstance(content, bytes):
                    raise Malformed("a data section that is not binary")
                body.append((code, bytes(content)))
            case decoding.SEQUENCE | decoding.VALUE:
                body.append((code, Raw(value)))
    annotations = named.get(decoding.ANNOTATIONS, {})
    return Parts(
        ttl=ttl,
        annotations={name: content for name, content in annotations.items() if name not in _OF_THE_SERVICE},
        fields=fields,
        application=named.get(decoding.APPLICATION_PROPERTIES, {}),
        body=body,
        footer=named.get(decoding.FOOTER, {}),
    )


def outgoing(parts: Parts) -> AmqpMessage:
    """A message that the SDK encodes to these parts, once `extend_encoder` has been called."""

    def of(code: int) -> list[Any]:
        return [content for kind, content in parts.body if kind == code]

    header: Any = None if parts.ttl is None else EncodedSection(Header, {_TTL: parts.ttl})
    fields: Any = EncodedSection(Properties, dict(enumerate(parts.fields))) if any(parts.fields) else None
    return AmqpMessage(
        header=header,
        message_annotations=_values(parts.annotations),
        properties=fields,
        application_properties=_values(parts.application),
        data=of(decoding.DATA) or None,
        sequence=of(decoding.SEQUENCE) or None,
        value=next(iter(of(decoding.VALUE)), None),
        footer=_values(parts.footer),
    )


def extend_encoder() -> bool:
    """Extend the SDK's encoder to write encoded values unchanged; False where its table is not the known one."""
    table: Any = sdk_internals.encoders()
    if table is None:
        return False
    if not isinstance(table[None], _ExtendedEncoder):
        table[None] = _ExtendedEncoder(table[None])
    return True


class _ExtendedEncoder:
    """Encoder that writes encoded values unchanged, and all others as the SDK's own."""

    def __init__(self, original: Callable[..., None]) -> None:
        self._original = original

    def __call__(self, output: bytearray, value: Any, **given: Any) -> None:
        if isinstance(value, Raw):
            output.extend(value)
        else:
            self._original(output, value, **given)


def _values(named: dict[Any, Raw]) -> Any:
    return {name: {TYPE: None, VALUE: value} for name, value in named.items()} or None


def _fields(value: memoryview, count: int) -> list[Raw | None]:
    found = [None if each == NULL else Raw(each) for each in elements(value)]
    if len(found) > count:
        raise Malformed(f"more than {count} fields")
    return found + [None] * (count - len(found))


def _named(value: memoryview) -> dict[Any, Raw]:
    parts: Iterable[memoryview] = elements(value)
    found: dict[Any, Raw] = {}
    for name, content in zip(parts, parts, strict=True):
        key = value_of(name)
        if not isinstance(key, bytes | int):
            raise Malformed("a map of a section with a name that is not text")
        found[key if isinstance(key, int) else bytes(key)] = Raw(content)
    return found
