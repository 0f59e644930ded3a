"""Protobuf schemas: read into JSON types, and written from them.

As protobuf's own JSON mapping, but with the names of the .proto file, and 64-bit integers as numbers: a condition like
`payload.total > 0` means what it says.
"""

from __future__ import annotations

import base64
import binascii
import importlib
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory  # type: ignore[import-untyped]  # comes without types
from google.protobuf.descriptor import Descriptor, FieldDescriptor  # type: ignore[import-untyped]  # comes without types
from google.protobuf.descriptor_pool import DescriptorPool  # type: ignore[import-untyped]  # comes without types
from google.protobuf.message import DecodeError as ProtobufError  # type: ignore[import-untyped]  # comes without types
from google.protobuf.message import Message as ProtobufMessage

from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.codecs.limits import Limits
from bridge.errors import DecodeError

_MAIN = "bridge/main.proto"
_HOMES = {"google/": "", "confluent/": "confluent_kafka.schema_registry."}
"""Packages of the files that every registry knows, by the beginning of their names."""
_FIELD = re.compile(r"Failed to parse (\S+) field|no field named \"(\S+?)\"")


class ProtobufSchema:
    """One schema, with every message in it."""

    def __init__(self, schema: RegisteredSchema, message: str | None) -> None:
        """message: full name of what is written; None: the first of the file.

        Raises: DecodeError when it is no usable Protobuf schema.
        """
        pool = DescriptorPool()
        try:
            files = {name: _file(text, name) for name, text in schema.references}
            main = _file(schema.text, _MAIN)
            for each in (*files.values(), main):
                _add(pool, each, files)
            self._file = pool.FindFileByName(_MAIN)
        except (TypeError, ValueError, KeyError, ProtobufError, binascii.Error) as error:
            raise DecodeError(
                f"the schema is no Protobuf file descriptor ({type(error).__name__}); "
                "the registry must answer `format=serialized`"
            ) from error
        self._top = [self._file.message_types_by_name[each.name] for each in main.message_type]
        self._written = self._find(message)
        self.record = self._written.full_name if self._written is not None else ""
        self.indexes = _place(self._written, self._top) if self._written is not None else None

    def _find(self, name: str | None) -> Descriptor | None:
        if name is None:
            return self._top[0] if self._top else None
        for each in _nested(self._top):
            if each.full_name == name:
                return each
        raise DecodeError(f"the schema has no message {name}")

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: Limits) -> Any:
        """See `Compiled.decode`."""
        found: list[Descriptor] = self._top
        kind: Descriptor | None = None
        for index in indexes:
            if index >= len(found):
                raise DecodeError("the body names a message that its Protobuf schema does not have")
            kind = found[index]
            found = list(kind.nested_types)
        assert kind is not None
        message = message_factory.GetMessageClass(kind)()
        try:
            message.ParseFromString(data)
        except ProtobufError:
            raise DecodeError(f"the body is no {kind.full_name} in Protobuf") from None
        return _message(message, limits.max_depth)

    def encode(self, value: Any) -> bytes:
        """See `Compiled.encode`."""
        if self._written is None:
            raise DecodeError("the Protobuf schema has no message to write")
        message = message_factory.GetMessageClass(self._written)()
        try:
            json_format.ParseDict(value, message)
        except (json_format.ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
            # Its text may quote the data, but for the name of the field
            named = _FIELD.search(str(error))
            where = f": {named[1] or named[2]}" if named else ""
            raise DecodeError(f"the event's data does not fit the message {self.record}{where}") from None
        return bytes(message.SerializeToString())


def _file(text: str, name: str) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    found.name = name
    return found


def _add(
    pool: DescriptorPool,
    file: descriptor_pb2.FileDescriptorProto,
    others: dict[str, descriptor_pb2.FileDescriptorProto],
) -> None:
    """The file with all that it imports."""
    for name in file.dependency:
        try:
            pool.FindFileByName(name)
        except KeyError:
            _add(pool, others[name] if name in others else _known(name), others)
    pool.Add(file)


def _known(name: str) -> descriptor_pb2.FileDescriptorProto:
    """A file that comes with the libraries. Raises: KeyError."""
    for beginning, package in _HOMES.items():
        if name.startswith(beginning) and re.fullmatch(r"[a-z0-9_/]+\.proto", name):
            try:
                importlib.import_module(package + name.removesuffix(".proto").replace("/", ".") + "_pb2")
            except ImportError:
                break
    found = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(found)
    return found


def _nested(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
    for each in messages:
        yield each
        yield from _nested(each.nested_types)


def _place(kind: Descriptor, top: list[Descriptor]) -> tuple[int, ...]:
    outer = kind.containing_type
    if outer is None:
        return (top.index(kind),)
    return (*_place(outer, top), list(outer.nested_types).index(kind))


def _message(message: ProtobufMessage, depth: int) -> Any:
    if depth <= 0:
        raise DecodeError("the body nests deeper than limits.max_depth allows")
    kind = message.DESCRIPTOR
    if kind.file.package == "google.protobuf":
        try:
            return json_format.MessageToDict(message, preserving_proto_field_name=True)
        except (TypeError, ValueError, json_format.Error):
            raise DecodeError(f"the body has a {kind.full_name} that has no JSON form") from None
    found: dict[str, Any] = {}
    for field in kind.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            found[field.name] = _several(field, value, depth)
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _single(field, value, depth)
    return found


def _several(field: FieldDescriptor, value: Any, depth: int) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        member = kind.fields_by_name["value"]
        return {_key(key): _single(member, value[key], depth - 1) for key in value}
    return [_single(field, each, depth - 1) for each in value]


def _key(key: Any) -> str:
    return ("true" if key else "false") if isinstance(key, bool) else str(key)


def _single(field: FieldDescriptor, value: Any, depth: int) -> Any:
    if field.message_type is not None:
        return _message(value, depth - 1)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
