"""Protobuf schemas: their messages are read into JSON types and written from them."""

from __future__ import annotations

import base64
import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pool import DescriptorPool

from bridge.codecs.confluent.protobuf_values import ProtobufValues
from bridge.codecs.confluent.registry import RegisteredSchema
from bridge.config.model.sources import LimitsConfig
from bridge.core.errors import DecodeError

_MAIN = "bridge/main.proto"
_HOMES = {"google/": "", "confluent/": "confluent_kafka.schema_registry."}
"""Packages of the files that every registry knows, by the beginning of their names."""


class ProtobufSchema:
    """One schema, with all its messages."""

    def __init__(self, schema: RegisteredSchema, message: str | None) -> None:
        """Compile a schema.

        message: full name of the message to write; None: the first of the file.

        Raises: DecodeError when it is no usable Protobuf schema.
        """
        pool = DescriptorPool()
        try:
            files = {name: _file(text, name) for name, text in schema.references}
            main = _file(schema.text, _MAIN)
            for each in (*files.values(), main):
                _add(pool, each, files, ())
            self._file = pool.FindFileByName(_MAIN)
        except Exception as error:  # descriptors of any form meet the library's code here
            raise DecodeError(
                f"the schema is no Protobuf file descriptor ({type(error).__name__}); "
                "the registry must answer `format=serialized`"
            ) from error
        self._top = [self._file.message_types_by_name[each.name] for each in main.message_type]
        self._values = ProtobufValues(pool)
        self._written = self._find(message)
        self.record = self._written.full_name if self._written is not None else ""

    def _find(self, name: str | None) -> Descriptor | None:
        if name is None:
            return self._top[0] if self._top else None
        for each in _nested(self._top):
            if each.full_name == name:
                return each
        raise DecodeError(f"the schema has no message {name}")

    def place(self, record: str | None) -> tuple[int, ...]:
        """See `CompiledSchema.place`."""
        return _place(self._to_write(record), self._top)

    def record_of(self, data: bytes, indexes: tuple[int, ...]) -> str:
        """See `CompiledSchema.record_of`."""
        return str(self._at(indexes).full_name)

    def decode(self, data: bytes, indexes: tuple[int, ...], limits: LimitsConfig) -> Any:
        """See `CompiledSchema.decode`."""
        return self._values.read(data, self._at(indexes), limits)

    def encode(self, value: Any, record: str | None = None) -> bytes:
        """See `CompiledSchema.encode`."""
        return self._values.write(value, self._to_write(record))

    def _at(self, indexes: tuple[int, ...]) -> Descriptor:
        found: list[Descriptor] = self._top
        kind: Descriptor | None = None
        for index in indexes:
            if index >= len(found):
                raise DecodeError("the body names a message that its Protobuf schema does not have")
            kind = found[index]
            found = list(kind.nested_types)
        assert kind is not None
        return kind

    def _to_write(self, record: str | None) -> Descriptor:
        kind = self._written if record is None else self._find(record)
        if kind is None:
            raise DecodeError("the Protobuf schema has no message to write")
        return kind


def _file(text: str, name: str) -> descriptor_pb2.FileDescriptorProto:
    found = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    found.name = name
    return found


def _add(
    pool: DescriptorPool,
    file: descriptor_pb2.FileDescriptorProto,
    others: dict[str, descriptor_pb2.FileDescriptorProto],
    above: tuple[str, ...],
) -> None:
    """Add the file and all its imports to the pool. above: files that are being added. Raises: ValueError for a
    circular import.
    """
    above = (*above, file.name)
    for name in file.dependency:
        try:
            pool.FindFileByName(name)
        except KeyError:
            if name in above:
                raise ValueError("files that import each other") from None
            _add(pool, others[name] if name in others else _known(name), others, above)
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
