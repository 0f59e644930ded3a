"""Conversion of Protobuf messages to JSON types, and back.

The form is protobuf's own JSON mapping (https://protobuf.dev/programming-guides/json), with two differences in reading.
Names of fields are those of the .proto file, and 64-bit integers are numbers, which lets a condition such as
`payload.total > 0` work. Data to write may use either name and either form of an integer.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError as ProtobufError
from google.protobuf.message import Message as ProtobufMessage

from bridge.codecs.confluent.protobuf_scan import Scanner
from bridge.codecs.limits import Budget
from bridge.codecs.numbers import double, float_to_json, single, single_to_json
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError, PayloadTooDeep

TYPE, VALUE = "@type", "value"
_ANY = "google.protobuf.Any"
_NULL = "google.protobuf.NullValue"
_PLAIN_FILES = (any_pb2, duration_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2)
_WELL_KNOWN = frozenset(
    kind.full_name for file in _PLAIN_FILES for kind in file.DESCRIPTOR.message_types_by_name.values()
)
"""Messages with a JSON form of their own; `Empty` has none."""
_ALWAYS_THERE = frozenset(file.DESCRIPTOR.name for file in (*_PLAIN_FILES, empty_pb2))
_DEPTH = 100
"""Deepest nesting of messages that protobuf's parsers read."""

_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,400})(?:\.\d{1,400})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_KEY = re.compile(r"0|-?[1-9]\d{0,19}", re.ASCII)
_TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)  # fmt: skip
_DURATION = re.compile(r"-?\d{1,12}(?:\.\d{1,9})?s", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A message without any field set.

    unset: its members and functions that create their values.
    order: of all fields.
    """

    unset: tuple[tuple[str, Callable[[], Any]], ...]
    order: dict[str, int]


class ProtobufValues:
    """Conversion of the messages of one pool. Safe to share."""

    def __init__(self, pool: DescriptorPool) -> None:
        self._pool = pool
        self._scanner = Scanner(pool)
        self._shapes: dict[Descriptor, _Shape] = {}
        self._fields: dict[str, dict[str, FieldDescriptor]] = {}

    def read(self, data: bytes, kind: Descriptor, limits: LimitsConfig) -> Any:
        """Read data into JSON types. Raises: DecodeError."""
        return self._parsed(data, kind, limits.max_depth, Budget(limits))

    def _parsed(self, data: bytes, kind: Descriptor, depth: int, budget: Budget) -> Any:
        self._scanner.scan(data, kind, budget)
        message = message_factory.GetMessageClass(kind)()
        try:
            message.ParseFromString(data)
        except ProtobufError:
            raise DecodeError(f"the body is no {kind.full_name} in Protobuf") from None
        if not message.IsInitialized():
            raise DecodeError(f"the body is a {kind.full_name} without a field that its schema requires")
        return self._message(message, depth, budget)

    def write(self, value: Any, kind: Descriptor) -> bytes:
        """Write JSON types as a message. Raises: DecodeError, naming the place in the data and never a value."""
        try:
            return self._encoded(value, kind, "", _DEPTH)
        except _Misfit as error:
            path = error.path.removeprefix(".")
            where = f": {path} " if path else ": it "
            raise DecodeError(
                f"the event's data does not fit the message {kind.full_name}{where}{error.what}"
            ) from None
        except RecursionError:
            raise DecodeError("the event's data nests too deep to be written as Protobuf") from None

    def _find(self, url: str) -> Descriptor | None:
        name = url.rpartition("/")[2]
        for pool in (self._pool, descriptor_pool.Default()):
            try:
                found = pool.FindMessageTypeByName(name)
            except KeyError:
                continue
            if pool is self._pool or found.file.name in _ALWAYS_THERE:
                return found
        return None

    # Reading

    def _message(self, message: ProtobufMessage, depth: int, budget: Budget) -> Any:
        if depth <= 0:
            raise PayloadTooDeep("the body nests deeper than limits.max_depth allows")
        kind = message.DESCRIPTOR
        if kind.full_name == _ANY:
            return self._any(message, depth, budget)
        if kind.full_name in _WELL_KNOWN:
            try:
                found = json_format.MessageToDict(message, preserving_proto_field_name=True)
            except (TypeError, ValueError, AttributeError, LookupError, json_format.Error):
                raise DecodeError(f"the body has a {kind.full_name} that has no JSON form") from None
            _check_depth(found, depth)
            return found
        shape = self._shapes.get(kind) or self._shape(kind)
        read: dict[str, Any] = {name: make() for name, make in shape.unset}
        ordered = True
        for field, value in message.ListFields():
            name = f"[{field.full_name}]" if field.is_extension else field.name
            ordered = ordered and name in read
            convert = self._several if field.is_repeated else self._single
            read[name] = convert(field, value, depth, budget)
        if ordered:
            return read
        return {name: read[name] for name in sorted(read, key=lambda name: shape.order.get(name, len(shape.order)))}

    def _shape(self, kind: Descriptor) -> _Shape:
        unset: list[tuple[str, Callable[[], Any]]] = []
        for field in kind.fields:
            if field.is_repeated:
                unset.append((field.name, dict if _is_map(field) else list))
            elif not field.has_presence:
                default = self._single(field, field.default_value, 0, None)
                unset.append((field.name, partial(_same, default)))
        shape = _Shape(tuple(unset), {field.name: at for at, field in enumerate(kind.fields)})
        self._shapes[kind] = shape
        return shape

    def _any(self, message: ProtobufMessage, depth: int, budget: Budget) -> Any:
        if not message.type_url and not message.value:
            return {}
        kind = self._find(message.type_url)
        if kind is None:
            raise DecodeError(f"the body has a {_ANY} of a message that its schema does not have")
        inner = self._parsed(message.value, kind, depth, budget)
        return {TYPE: message.type_url, **({VALUE: inner} if kind.full_name in _WELL_KNOWN else inner)}

    def _several(self, field: FieldDescriptor, value: Any, depth: int, budget: Budget) -> Any:
        if _is_map(field):
            member = field.message_type.fields_by_name[VALUE]
            return {_key(key): self._single(member, value[key], depth - 1, budget) for key in value}
        return [self._single(field, each, depth - 1, budget) for each in value]

    def _single(self, field: FieldDescriptor, value: Any, depth: int, budget: Budget | None) -> Any:
        if field.message_type is not None:
            assert budget is not None
            return self._message(value, depth - 1, budget)
        if field.enum_type is not None:
            if field.enum_type.full_name == _NULL:
                return None
            known = field.enum_type.values_by_number.get(value)
            return known.name if known is not None else value
        if isinstance(value, bytes):
            return base64.b64encode(value).decode()
        if isinstance(value, float):
            return single_to_json(value) if field.type == FieldDescriptor.TYPE_FLOAT else float_to_json(value)
        return value

    # Writing

    def _encoded(self, value: Any, kind: Descriptor, path: str, depth: int) -> bytes:
        message = message_factory.GetMessageClass(kind)()
        self._fill(message, value, path, depth)
        missing = message.FindInitializationErrors()
        if missing:
            raise _Misfit(f"{path}.{missing[0]}", "must be there")
        return bytes(message.SerializeToString())

    def _fill(self, message: ProtobufMessage, value: Any, path: str, depth: int) -> None:
        if depth <= 0:
            raise _Misfit(path, f"nests deeper than the {_DEPTH} messages that Protobuf allows")
        kind = message.DESCRIPTOR
        if kind.full_name in _WELL_KNOWN:
            self._well_known(message, value, path, depth)
            return
        if not isinstance(value, dict):
            raise _Misfit(path, f"must be an object for the message {kind.full_name}")
        written: set[str] = set()
        for name, member in value.items():
            field = self._field(kind, name)
            if field is None:
                raise _Misfit(f"{path}.{name}", f"is no field of the message {kind.full_name}")
            for what in (field.full_name, field.containing_oneof.full_name if field.containing_oneof else ""):
                if what and what in written and member is not None:
                    raise _Misfit(f"{path}.{name}", "is given twice, or with another field of its oneof")
                if member is not None:
                    written.add(what)
            if member is not None or _takes_null(field):
                self._set(message, field, member, f"{path}.{name}", depth)

    def _field(self, kind: Descriptor, name: Any) -> FieldDescriptor | None:
        fields = self._fields.get(kind.full_name)
        if fields is None:
            fields = {each.json_name: each for each in kind.fields} | {each.name: each for each in kind.fields}
            self._fields[kind.full_name] = fields
        if name in fields or not isinstance(name, str) or not name.startswith("["):
            return fields.get(name)
        try:
            found = self._pool.FindExtensionByName(name[1:-1])
        except KeyError:
            return None
        return found if name.endswith("]") and found.containing_type is kind else None

    def _set(self, message: ProtobufMessage, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if not field.is_repeated and field.message_type is None:
            converted = _scalar(field, value, path)
            with _in_range(path):
                _assign(message, field, converted)
            return
        target = message.Extensions[field] if field.is_extension else getattr(message, field.name)
        if not field.is_repeated:
            target.SetInParent()
            self._fill(target, value, path, depth - 1)
        elif _is_map(field):
            self._fill_map(target, field, value, path, depth)
        else:
            self._fill_list(target, field, value, path, depth)

    def _fill_list(self, target: Any, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, list):
            raise _Misfit(path, "must be an array")
        for at, each in enumerate(value):
            place = f"{path}[{at}]"
            if each is None and not _takes_null(field):
                raise _Misfit(place, "must not be null")
            if field.message_type is not None:
                self._fill(target.add(), each, place, depth - 1)
            else:
                converted = _scalar(field, each, place)
                with _in_range(place):
                    target.append(converted)

    def _fill_map(self, target: Any, field: FieldDescriptor, value: Any, path: str, depth: int) -> None:
        if not isinstance(value, dict):
            raise _Misfit(path, "must be a map")
        key_field, member = (field.message_type.fields_by_name[name] for name in ("key", VALUE))
        for text, each in value.items():
            place = f"{path}.{text}"
            if each is None and not _takes_null(member):
                raise _Misfit(place, "must not be null")
            key = _map_key(key_field, text, path)
            if member.message_type is not None:
                with _in_range(path):
                    entry = target[key]
                self._fill(entry, each, place, depth - 2)
            else:
                converted = _scalar(member, each, place)
                with _in_range(place):
                    target[key] = converted

    def _well_known(self, message: ProtobufMessage, value: Any, path: str, depth: int) -> None:
        kind = message.DESCRIPTOR
        match kind.name:
            case "Any":
                self._pack(message, value, path, depth)
            case "Timestamp":
                _parse(
                    message, value, _TIMESTAMP, path, "must be an RFC 3339 timestamp with at most 9 digits of a second"
                )
            case "Duration":
                _parse(message, value, _DURATION, path, 'must be a duration like "1.5s"')
            case "FieldMask":
                _parse(message, value, None, path, "must be a field mask like f.fooBar,h")
            case "Struct":
                if not isinstance(value, dict):
                    raise _Misfit(path, "must be an object")
                message.Clear()
                for name, each in value.items():
                    text = _converted(_text, name, path, "must have names of text")
                    self._fill(message.fields[text], each, f"{path}.{name}", depth - 2)
            case "ListValue":
                if not isinstance(value, list):
                    raise _Misfit(path, "must be an array")
                for at, each in enumerate(value):
                    self._fill(message.values.add(), each, f"{path}[{at}]", depth - 1)
            case "Value":
                self._fill_value(message, value, path, depth)
            case _:  # a wrapper
                field = kind.fields_by_name[VALUE]
                message.SetInParent()
                converted = _scalar(field, value, path)
                with _in_range(path):
                    message.value = converted

    def _fill_value(self, message: ProtobufMessage, value: Any, path: str, depth: int) -> None:
        match value:
            case None:
                message.null_value = 0
            case bool():
                message.bool_value = value
            case str():
                message.string_value = _converted(_text, value, path, "must be text that UTF-8 can carry")
            case int() | float():
                number = _converted(double, value, path, "must be a number that a double can hold")
                if not isinstance(float_to_json(number), float):
                    raise _Misfit(path, "must be a finite number")
                message.number_value = number
            case list():
                message.list_value.SetInParent()
                self._fill(message.list_value, value, path, depth - 1)
            case _:
                message.struct_value.SetInParent()
                self._fill(message.struct_value, value, path, depth - 1)

    def _pack(self, message: ProtobufMessage, value: Any, path: str, depth: int) -> None:
        if value == {}:
            return
        url = value.get(TYPE) if isinstance(value, dict) else None
        kind = self._find(url) if isinstance(url, str) and "/" in url else None
        if kind is None:
            raise _Misfit(path, f"must have {TYPE}, the type URL of a message that the schema has")
        rest = {name: each for name, each in value.items() if name != TYPE}
        if kind.full_name in _WELL_KNOWN:
            if rest.keys() != {VALUE}:
                raise _Misfit(path, f"must have {TYPE} and {VALUE} alone")
            rest = rest[VALUE]
        message.value = self._encoded(rest, kind, path, depth - 1)
        message.type_url = url


class _Misfit(Exception):
    def __init__(self, path: str, what: str) -> None:
        self.path = path
        self.what = what


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and bool(kind.GetOptions().map_entry)


def _takes_null(field: FieldDescriptor) -> bool:
    """Return whether null is a value of the field. For any other field null means that the field is absent."""
    if field.message_type is not None:
        return not _is_map(field) and bool(field.message_type.full_name == "google.protobuf.Value")
    return field.enum_type is not None and bool(field.enum_type.full_name == _NULL)


def _check_depth(value: Any, depth: int) -> None:
    level = [value]
    while level:
        if depth <= 0 and any(isinstance(each, dict | list) for each in level):
            raise PayloadTooDeep("the body nests deeper than limits.max_depth allows")
        depth -= 1
        level = [
            member
            for each in level
            if isinstance(each, dict | list)
            for member in (each.values() if isinstance(each, dict) else each)
        ]


def _same(value: Any) -> Any:
    return value


def _key(key: Any) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def _assign(message: ProtobufMessage, field: FieldDescriptor, value: Any) -> None:
    if field.is_extension:
        message.Extensions[field] = value
    else:
        setattr(message, field.name, value)


@contextmanager
def _in_range(path: str) -> Iterator[None]:
    """Translate the range error that protobuf raises when an integer is assigned."""
    try:
        yield
    except (ValueError, TypeError, OverflowError):
        raise _Misfit(path, "must be in the range of its type") from None


def _converted(convert: Callable[[Any], Any], value: Any, path: str, what: str) -> Any:
    try:
        return convert(value)
    except (ValueError, TypeError, OverflowError, ArithmeticError, binascii.Error):
        raise _Misfit(path, what) from None


def _parse(message: Any, value: Any, pattern: re.Pattern[str] | None, path: str, what: str) -> None:
    if not isinstance(value, str) or (pattern is not None and not pattern.fullmatch(value)):
        raise _Misfit(path, what)
    try:
        message.FromJsonString(value)
        kept = pattern is not None or message.ToJsonString() == value
    except (ValueError, TypeError, OverflowError, json_format.Error):
        kept = False
    if not kept:
        raise _Misfit(path, what)


def _map_key(field: FieldDescriptor, text: Any, path: str) -> Any:
    what = "must have keys that fit its type"
    if field.type == FieldDescriptor.TYPE_BOOL:
        if text not in ("true", "false"):
            raise _Misfit(path, what)
        return text == "true"
    if field.type == FieldDescriptor.TYPE_STRING:
        return _converted(_text, text, path, what)
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        raise _Misfit(path, what)
    return int(text)


def _scalar(field: FieldDescriptor, value: Any, path: str) -> Any:
    if field.enum_type is not None:
        return _enum(field, value, path)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_BOOL:
            if not isinstance(value, bool):
                raise _Misfit(path, "must be true or false")
            return value
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return _converted(
                lambda given: double(_number(given)), value, path, "must be a number that a double can hold"
            )
        case FieldDescriptor.CPPTYPE_FLOAT:
            what = "must be a number that a 32-bit float can hold"
            return _converted(lambda given: single(_number(given)), value, path, what)
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return _converted(_bytes, value, path, "must be bytes in base64")
            return _converted(_text, value, path, "must be a string")
    return _converted(_integer, value, path, "must be an integer")


def _enum(field: FieldDescriptor, value: Any, path: str) -> int:
    kind = field.enum_type
    if value is None and kind.full_name == _NULL:
        return 0
    if isinstance(value, str) and value in kind.values_by_name:
        return int(kind.values_by_name[value].number)
    if not isinstance(value, str):
        number = _converted(_integer, value, path, "must be the name or the number of an enum value")
        if number in kind.values_by_number or not kind.is_closed:
            return int(number)
    raise _Misfit(path, f"must be one of {', '.join(kind.values_by_name)}")


def _number(value: Any) -> Any:
    """The number in a text, as the JSON mapping allows it; anything else unchanged."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    number = Decimal(value)
    if number == number.to_integral_value():
        return int(number)
    converted = float(value)
    if converted in (0.0, float("inf"), float("-inf")):
        raise OverflowError
    return converted


def _integer(value: Any) -> int:
    number = _number(value)
    if type(number) is float and number.is_integer():
        number = int(number)
    if type(number) is not int:
        raise TypeError
    return number


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    value.encode()  # ValueError for a lone surrogate
    return value


def _bytes(value: Any) -> bytes:
    """Bytes of base64: standard or for URLs, padded or not. Raises: ValueError, TypeError for anything else."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError
    text = value.replace("-", "+").replace("_", "/")
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    data = base64.b64decode(padded, validate=True)
    if text not in (bare, padded) or base64.b64encode(data).decode() != padded:
        raise ValueError
    return data
