"""Choice of the schema, and its subject, that a target writes with."""

from __future__ import annotations

import asyncio
import base64
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError as ProtobufError

from bridge.codecs.confluent.format import CompiledSchema, SchemaFormat
from bridge.codecs.confluent.registry import RegisteredSchema, Registry, SchemaIds, UnknownSchema
from bridge.config.schema_files import MAX_SCHEMA
from bridge.core.errors import DecodeError, SchemaError
from bridge.system.files import read_file


@dataclass(frozen=True, slots=True)
class ChosenSchema:
    """Schema to write with, and its ids."""

    ids: SchemaIds
    schema: CompiledSchema


class SchemaChooser:
    """Choice of the schema of one target.

    A schema from a file stays the same; it is looked up (or registered) once. The latest schema of a subject is looked
    up again after `latest_for` seconds of the registry.
    """

    def __init__(
        self,
        registry: Registry,
        format: SchemaFormat,  # noqa: A002 -- the noun
        *,
        topic: str,
        subject: str = "{topic}-value",
        own: Path | None = None,
        message: str | None = None,
        auto_register: bool = False,
        place: Literal["prefix", "header"] = "prefix",
    ) -> None:
        """Prepare the choice of one target.

        subject: subject name, in which `{topic}` and `{record}` stand for the topic and the full name of the
        record.
        own: file of the schema; None: latest schema of the subject.
        message: name of the Protobuf message; None: the first.
        place: where the id is written.
        Raises: DecodeError when the file cannot be used.
        """
        self._registry = registry
        self._format = format
        self._message = message
        self._auto_register = auto_register
        self.in_header = place == "header"
        self._own = RegisteredSchema(read(own, format.kind), format.kind) if own is not None else None
        self._compiled = format.compile(self._own, message) if self._own is not None else None
        record = self._compiled.record if self._compiled is not None else ""
        self.subject = subject.replace("{topic}", topic).replace("{record}", record)
        self._chosen: ChosenSchema | None = None
        self._until = 0.0
        self._turn = asyncio.Lock()

    @property
    def chosen(self) -> ChosenSchema:
        """Schema that `choose` found."""
        assert self._chosen is not None, "nothing was chosen yet"
        return self._chosen

    async def choose(self) -> None:
        """Find the schema, unless it is known. Raises: RegistryUnavailable, SchemaError, DecodeError."""
        if self._chosen is not None and time.monotonic() < self._until:
            return
        async with self._turn:
            if self._chosen is not None and time.monotonic() < self._until:
                return
            if self._own is None or self._compiled is None:
                try:
                    ids, schema = await self._registry.latest(self.subject, self._format.kind)
                except UnknownSchema as error:
                    raise SchemaError(f"{error}; register one, or give the target a `schema`") from None
                if self._chosen is None or self._chosen.ids != ids:
                    self._chosen = ChosenSchema(
                        ids, await asyncio.to_thread(self._format.compile, schema, self._message)
                    )
                self._until = time.monotonic() + self._registry.latest_for
                return
            self._chosen = ChosenSchema(await self._ids(self._own.text), self._compiled)
            self._until = float("inf")

    async def _ids(self, text: str) -> SchemaIds:
        if self._auto_register:
            return await self._registry.register(self.subject, text, self._format.kind)
        try:
            return await self._registry.find(self.subject, text, self._format.kind)
        except UnknownSchema:
            raise SchemaError(
                f"registry {self._registry.name} does not have the target's schema under the subject {self.subject}; "
                "register it, or set `auto_register: true`"
            ) from None


def read(file: Path, kind: str) -> str:
    """Text of a schema file in the form that a registry accepts: Avro as JSON; for Protobuf, the last file of a
    descriptor set.

    Raises: DecodeError, naming the file.
    """
    try:
        raw = read_file(file, MAX_SCHEMA)
    except OSError as error:
        raise DecodeError(f"{file} cannot be read: {error.strerror or type(error).__name__}") from None
    if kind != "PROTOBUF":
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise DecodeError(f"{file} is not UTF-8") from None
    try:
        files = list(descriptor_pb2.FileDescriptorSet.FromString(raw).file)
    except ProtobufError:
        files = []
    if not files:
        raise DecodeError(f"{file} is no descriptor set; make one: protoc --descriptor_set_out={file.name} NAME.proto")
    foreign = [name for name in files[-1].dependency if not name.startswith(("google/", "confluent/"))]
    if foreign:
        raise DecodeError(f"{file} imports {foreign[0]}: register it with its references, and leave `schema` out")
    return base64.b64encode(files[-1].SerializeToString()).decode()
