"""Check of Protobuf data before the library parses it: strict about the schema, and within limits.

The library allocates room for all fields of every nested message before anything can be counted. It cuts an integer
that is too long for its field, and takes a field of another type for an unknown field, which is lost.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from bridge.codecs.limits import Budget, MisfitValue
from bridge.core.errors import DecodeError, PayloadTooDeep

_VARINT, _FIXED64, _LENGTH, _GROUP, _END_GROUP, _FIXED32 = range(6)
_SIZES = {_FIXED64: 8, _FIXED32: 4}
_WIRE = {
    FieldDescriptor.TYPE_DOUBLE: _FIXED64, FieldDescriptor.TYPE_FIXED64: _FIXED64,
    FieldDescriptor.TYPE_SFIXED64: _FIXED64, FieldDescriptor.TYPE_FLOAT: _FIXED32,
    FieldDescriptor.TYPE_FIXED32: _FIXED32, FieldDescriptor.TYPE_SFIXED32: _FIXED32,
    FieldDescriptor.TYPE_STRING: _LENGTH, FieldDescriptor.TYPE_BYTES: _LENGTH, FieldDescriptor.TYPE_MESSAGE: _LENGTH,
    FieldDescriptor.TYPE_GROUP: _GROUP,
}  # fmt: skip
_ROOM = 8
"""Bytes that each field, set or unset, takes in a parsed message."""
_NESTING = 100
"""Deepest nesting of messages that the library reads."""

_FITS: dict[int, Callable[[int], bool]] = {
    FieldDescriptor.TYPE_BOOL: lambda value: value <= 1,
    FieldDescriptor.TYPE_UINT32: lambda value: value < 1 << 32,
    FieldDescriptor.TYPE_SINT32: lambda value: value < 1 << 32,
    # A negative value is sent with the sign in all 64 bits
    FieldDescriptor.TYPE_INT32: lambda value: value < 1 << 31 or value >= (1 << 64) - (1 << 31),
}


class _Malformed(Exception):
    """The bytes are not Protobuf."""


@dataclass(frozen=True, slots=True)
class _Field:
    """Check and cost of one field.

    fits: None where every integer fits.
    message: type of a message field.
    text: check UTF-8.
    cost: values and bytes of one.
    """

    name: str
    wire: int
    packable: bool
    fits: Callable[[int], bool] | None
    message: Descriptor | None
    text: bool
    cost: tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Fields of a message type. cost: values and bytes of a message without any field set."""

    fields: dict[int, _Field]
    cost: tuple[int, int]


class Scanner:
    """Scanner of the messages of one pool. Safe to share."""

    def __init__(self, pool: object) -> None:
        self._pool = pool
        self._plans: dict[Descriptor, _Plan] = {}

    def scan(self, data: bytes, kind: Descriptor, budget: Budget) -> None:
        """Check a message. Raises: DecodeError for data that the message cannot carry unchanged, TooManyValues,
        DecodedTooLarge, PayloadTooDeep.
        """
        try:
            at = self._message(data, 0, len(data), kind, budget, _NESTING, None)
        except MisfitValue as error:
            raise DecodeError(f"the body cannot be read: data{error.path} {error.what}") from None
        except (_Malformed, RecursionError):
            at = -1
        if at != len(data):
            raise DecodeError(f"the body is no {kind.full_name} in Protobuf")

    def _message(
        self, data: bytes, at: int, end: int, kind: Descriptor | None, budget: Budget, room: int, group: int | None
    ) -> int:
        """Scan up to `end`, or up to the end of the group of this number, and return the position after it."""
        if room < 0:
            raise PayloadTooDeep(f"the body nests deeper than the {_NESTING} messages that Protobuf can be read with")
        fields: dict[int, _Field] = {}
        if kind is not None:
            plan = self._plans.get(kind) or self._plan(kind)
            fields = plan.fields
            budget.take(*plan.cost)
        while at < end:
            tag, at = _varint(data, at, end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise _Malformed
            if wire == _END_GROUP:
                if number != group:
                    raise _Malformed
                return at
            field = fields.get(number)
            if field is None:
                budget.take(1)
                at = self._skip(data, at, end, wire, number, budget, room)
                continue
            try:
                at = self._field(data, at, end, wire, number, field, budget, room)
            except MisfitValue as error:
                error.prefix(f".{field.name}")
                raise
        if group is not None:
            raise _Malformed
        return at

    def _field(
        self, data: bytes, at: int, end: int, wire: int, number: int, field: _Field, budget: Budget, room: int
    ) -> int:
        if wire != field.wire and not (field.packable and wire == _LENGTH):
            raise MisfitValue("has another type than its schema says")
        budget.take(*field.cost)
        if wire == _VARINT:
            value, at = _varint(data, at, end)
            if field.fits is not None and not field.fits(value):
                raise MisfitValue("is beyond its type")
            return at
        if wire == _GROUP:
            return self._message(data, at, end, field.message, budget, room - 1, number)
        if wire != _LENGTH:
            return _forward(at, _SIZES[wire], end)
        size, start = _varint(data, at, end)
        at = _forward(start, size, end)
        if field.message is not None:
            if self._message(data, start, at, field.message, budget, room - 1, None) != at:
                raise _Malformed
        elif field.packable:
            self._packed(data, start, at, field, budget)
        else:
            budget.take(0, size)
            if field.text:
                try:
                    data[start:at].decode()
                except UnicodeDecodeError:
                    raise MisfitValue("is text that is not valid UTF-8") from None
        return at

    def _packed(self, data: bytes, at: int, end: int, field: _Field, budget: Budget) -> None:
        if field.wire != _VARINT:
            count, rest = divmod(end - at, _SIZES[field.wire])
            if rest:
                raise _Malformed
            budget.take(count)
            return
        while at < end:
            budget.take(*field.cost)
            value, at = _varint(data, at, end)
            if field.fits is not None and not field.fits(value):
                raise MisfitValue("is beyond its type")

    def _skip(self, data: bytes, at: int, end: int, wire: int, number: int, budget: Budget, room: int) -> int:
        if wire == _VARINT:
            return _varint(data, at, end)[1]
        if wire == _LENGTH:
            size, at = _varint(data, at, end)
            return _forward(at, size, end)
        if wire == _GROUP:
            return self._message(data, at, end, None, budget, room - 1, number)
        if wire not in _SIZES:
            raise _Malformed
        return _forward(at, _SIZES[wire], end)

    def _plan(self, kind: Descriptor) -> _Plan:
        shown = [field for field in kind.fields if field.is_repeated or not field.has_presence]
        fields = {field.number: _field(field) for field in kind.fields}
        if kind.is_extendable:
            fields |= {field.number: _field(field) for field in self._pool.FindAllExtensions(kind)}  # type: ignore[attr-defined]  # comes without types
        texts = sum(len(field.name) + (0 if field.is_repeated else _longest(field)) for field in shown)
        plan = _Plan(fields, (len(shown) + 1, texts + _ROOM * len(kind.fields)))
        self._plans[kind] = plan
        return plan


def _field(field: FieldDescriptor) -> _Field:
    wire = _WIRE.get(field.type, _VARINT)
    fits = _FITS.get(field.type)
    if field.enum_type is not None:
        # A closed enum would lose an unknown number
        known = frozenset(field.enum_type.values_by_number) if field.enum_type.is_closed else None
        fits = _known(known) if known is not None else _FITS[FieldDescriptor.TYPE_INT32]
    packable = field.is_repeated and wire in (_VARINT, _FIXED64, _FIXED32)
    if field.is_repeated:
        cost = 1, _longest(field)
    else:
        cost = (1, len(field.name) + _longest(field)) if field.has_presence else (0, 0)
    text = field.type == FieldDescriptor.TYPE_STRING
    return _Field(field.name, wire, packable, fits, field.message_type, text, cost)


def _longest(field: FieldDescriptor) -> int:
    """Length of the longest name of an enum; 0 for other types."""
    return max(map(len, field.enum_type.values_by_name), default=0) if field.enum_type is not None else 0


def _known(numbers: frozenset[int]) -> Callable[[int], bool]:
    return lambda value: (value - (1 << 64) if value >> 63 else value) in numbers


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, at
        shift += 7
        if shift >= 70:
            break
    raise _Malformed


def _forward(at: int, size: int, end: int) -> int:
    if size > end - at:
        raise _Malformed
    return at + size
