"""Large payloads on their way to and from an engine: stored beside it, with a reference in the message.

The stores are the SDK's (`PayloadStore`), but not its search of whole messages, which costs more than a start and
restores every payload of an instance's history in each turn. Here a payload is read when its value is needed, and a
turn that continues in memory reads none of the past.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import threading
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from durabletask.payload import LargePayloadStorageOptions, PayloadStore, deexternalize_payloads_async
from durabletask.serialization import DataConverter, JsonDataConverter
from google.protobuf.message import Message

from bridge.config.model.payloads import FilePayloadsConfig
from bridge.core.errors import EngineOutage, LargePayloadLost
from bridge.large_payloads.files import PayloadFiles, directory_of
from bridge.large_payloads.reference import MARK, Reference, is_reference
from bridge.sqlite_engine.defaults import MAX_PAYLOAD

Found = TypeVar("Found")

_SYSTEM_IDS = ("@bridge.", "bridge:")
"""Beginnings of the ids of the bridge's own entities and orchestrations, whose messages the engine's rules read."""


@dataclass(frozen=True, slots=True)
class FileSettings:
    """Settings of a store of files, as a worker process gets them.

    above: bytes above which a payload is stored; None: none is, and stored ones are still read.
    max: bytes of the largest payload.
    """

    directory: str
    above: int | None = None
    max: int = MAX_PAYLOAD


def file_settings(config: FilePayloadsConfig | None, file: Path) -> FileSettings:
    """Settings of the store beside an engine's file."""
    if config is None:
        return FileSettings(str(directory_of(file)))
    return FileSettings(str(directory_of(file)), config.above, config.max)


class ReferencePayloadStore(PayloadStore):
    """Store of the SDK over files beside an engine, which removes them with the last reference.

    above: bytes above which a payload is stored; None: none is, and stored ones are still read.
    Every method raises EngineError.
    """

    def __init__(self, above: int | None) -> None:
        # The SDK's own check of the size names no setting.
        self._options = LargePayloadStorageOptions(
            sys.maxsize if above is None else above, sys.maxsize, enable_compression=False
        )

    @abstractmethod
    def write(self, data: bytes) -> Reference:
        """Store a payload."""

    @property
    def options(self) -> LargePayloadStorageOptions:
        return self._options

    def upload(self, data: bytes, *, instance_id: str | None = None) -> str:
        """Store a payload, and return its reference; return a payload for the bridge's own work as it is."""
        if instance_id is not None and instance_id.startswith(_SYSTEM_IDS):
            return data.decode()
        return str(self.write(data))

    async def upload_async(self, data: bytes, *, instance_id: str | None = None) -> str:
        return await asyncio.to_thread(self.upload, data, instance_id=instance_id)

    async def download_async(self, token: str) -> bytes:
        return await asyncio.to_thread(self.download, token)

    def is_known_token(self, value: str) -> bool:
        return is_reference(value)


class FilePayloadStore(ReferencePayloadStore):
    """Store of a process that reads and writes the files itself."""

    def __init__(self, settings: FileSettings) -> None:
        super().__init__(settings.above)
        self._files = PayloadFiles(Path(settings.directory), settings.max)

    def write(self, data: bytes) -> Reference:
        return self._files.write(data)

    def download(self, token: str) -> bytes:
        return self._files.restore(token).encode()


@runtime_checkable
class InstanceStore(Protocol):
    """Store whose payloads the bridge deletes after their instance."""

    def remove(self, instance_id: str) -> int:
        """Delete the payloads of an instance; return their number. Raises: EngineError."""
        ...


def keeps_entities(store: PayloadStore | None) -> bool:
    """True for a store that deletes the payloads of entities: a remote engine reports no entity's end."""
    return isinstance(store, ReferencePayloadStore)


class Serialized:
    """Value whose text is ready to be sent."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class ClientConverter(JsonDataConverter):
    """Converter of the SDK's client, which takes `Serialized` values as they are."""

    def serialize(self, value: Any) -> str | None:
        return value.text if type(value) is Serialized else super().serialize(value)


class ClientPayloads:
    """Large payloads of the requests and answers of one client, whose converter is a `ClientConverter`."""

    def __init__(self, store: PayloadStore) -> None:
        self._store = store
        self._above = store.options.threshold_bytes
        self._converter = JsonDataConverter()

    async def stored(self, value: Any, target_id: str | None) -> Any:
        """Value to send to the instance or entity: a reference when it is large. Raises: TypeError, EngineError."""
        if value is None:
            return None
        text = self._converter.serialize(value)
        if text is None:
            return None
        is_kept = target_id is None or not target_id.startswith("@") or keeps_entities(self._store)
        if len(text) * 4 > self._above and is_kept:
            data = text.encode()
            if len(data) > self._above:
                text = await self._store.upload_async(data, instance_id=target_id)
        return Serialized(text)

    async def restored(self, found: Found) -> Found:
        """Dataclass of the SDK with the payloads in the place of their references. Raises: EngineError."""
        state: Any = found
        values = {
            field.name: (await self._store.download_async(value)).decode()
            for field in dataclasses.fields(state)
            if isinstance(value := getattr(state, field.name), str) and self._store.is_known_token(value)
        }
        return dataclasses.replace(state, **values) if values else found

    async def purged(self, instance_id: str) -> None:
        """Delete the payloads of a purged instance, unless the engine itself does. Raises: EngineError."""
        if isinstance(self._store, InstanceStore):
            await asyncio.to_thread(self._store.remove, instance_id)

    async def restore(self, message: Message) -> None:
        """Put the payloads of a message in the place of their references. Raises: EngineError."""
        await deexternalize_payloads_async(message, self._store)


class WorkerPayloads:
    """Large payloads of one worker. Thread-safe.

    `outage` tells for each thread that the store did not answer: the work item must then go back to the engine, because
    its result would be a failure that is not the workflow's.
    """

    def __init__(self, store: PayloadStore | None = None) -> None:
        """Create the object. store: None where the engine has no store; references are then errors."""
        self._store = store
        self._above = sys.maxsize if store is None else store.options.threshold_bytes
        self._keeps_entities = keeps_entities(store)
        self._thread = threading.local()

    def begin(self) -> None:
        """Forget an earlier outage: this thread begins a work item."""
        self._thread.outage = None

    @property
    def are_stored(self) -> bool:
        """True when large results go to a store, which may take its time."""
        return self._above < sys.maxsize

    @property
    def outage(self) -> EngineOutage | None:
        """Outage that the thread's work item met; None without one."""
        found: EngineOutage | None = getattr(self._thread, "outage", None)
        return found

    def restore(self, text: str) -> str:
        """Payload of a text, which may be a reference. Raises: LargePayloadLost, LargePayloadRefused, EngineError."""
        store = self._store
        if store is None:
            if text.startswith(MARK):
                raise LargePayloadLost(
                    "the payload lies beside the engine, and this worker has no store of large payloads; give its "
                    "engine `payloads: {store: {type: engine}}`"
                )
            return text
        if not store.is_known_token(text):
            return text
        try:
            return store.download(text).decode()
        except EngineOutage as error:
            self._thread.outage = error
            raise

    def store(self, fields: Iterable[tuple[str, Any]], instance_id: str) -> None:
        """Store the large payloads among these fields, in place.

        fields: each with the id of the instance or entity for which it is meant; empty for `instance_id`.
        Raises: LargePayloadRefused, EngineOutage.
        """
        store = self._store
        if store is None:
            return
        for target, field in fields:
            text = field.value
            if len(text) * 4 <= self._above or store.is_known_token(text):
                continue
            owner = target or instance_id
            if owner.startswith(_SYSTEM_IDS) or (owner.startswith("@") and not self._keeps_entities):
                continue
            data = text.encode()
            if len(data) > self._above:
                field.value = store.upload(data, instance_id=owner)


class RestoringConverter(DataConverter):
    """Converter that reads the payload of a reference before it converts the payload."""

    def __init__(self, inner: DataConverter, payloads: WorkerPayloads) -> None:
        self._inner = inner
        self._payloads = payloads

    def serialize(self, value: Any) -> str | None:
        return self._inner.serialize(value)

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        """Convert the text of a value, or of a reference. Raises: as the inner converter; EngineError."""
        return self._inner.deserialize(data and self._payloads.restore(data), target_type)

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        return self._inner.coerce(value, target_type)

    def can_reconstruct(self, target_type: Any) -> bool:
        return self._inner.can_reconstruct(target_type)
