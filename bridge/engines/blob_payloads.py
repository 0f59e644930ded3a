"""Large payloads in Azure Blob Storage, in the format of the Durable Task SDK's own store.

A payload is a blob `INSTANCE/RANDOM`, compressed with gzip; its reference is `blob:v1:CONTAINER:BLOB`. Workers of other
languages that use their SDK's store read the payloads, and this store reads theirs. Blobs are deleted after their
instance. Import this module on demand: `azure-storage-blob` is of the extra `blob`.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import sys
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote
from uuid import uuid4

import structlog
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ResourceExistsError,
    ResourceNotFoundError,
)
from azure.storage.blob import ContainerClient
from durabletask.payload import LargePayloadStorageOptions, PayloadStore

from bridge.config.model.claims import TargetBlobConfig
from bridge.config.model.payloads import BlobStoreConfig
from bridge.core.errors import EngineDenied, EngineError, LargePayloadLost, PayloadStoreUnavailable
from bridge.engines.azure_access import synchronous_credential
from bridge.engines.client import EngineClient
from bridge.large_payloads.files import too_large

log = structlog.get_logger("bridge.engine")

DAY_SECONDS = 86_400.0

_PREFIX = "blob:v1:"
_LEVEL = 1
"""Level of compression: the network is slower than the fastest one, and faster than the best one."""

_GZIP = 16 + zlib.MAX_WBITS
_CONNECT_SECONDS = 5
_READ_SECONDS = 30
_RETRIES = 3
_PAGE = 500


class BlobPayloadStore(PayloadStore):
    """Store of one container. Methods may be called from any thread. Every method raises EngineError."""

    def __init__(self, store: BlobStoreConfig, above: int, most: int) -> None:
        """Create the store without connecting. Raises: ValueError when the account cannot be used.

        above: bytes above which a payload is stored. most: bytes of the largest payload.
        """
        self._max = most
        self._name = store.container
        self._options = LargePayloadStorageOptions(above, sys.maxsize, enable_compression=True)
        self._client = _connected(store)
        self._is_made = False

    @property
    def options(self) -> LargePayloadStorageOptions:
        return self._options

    def close(self) -> None:
        self._client.close()

    def upload(self, data: bytes, *, instance_id: str | None = None) -> str:
        if len(data) > self._max:
            raise too_large(len(data), self._max)
        name = uuid4().hex if instance_id is None else f"{_escaped(instance_id)}/{uuid4().hex}"
        with _translated(f"store a payload of {len(data)} bytes in container {self._name!r}"):
            if not self._is_made:
                with suppress(ResourceExistsError):
                    self._client.create_container()
                self._is_made = True
            self._client.upload_blob(name, gzip.compress(data, _LEVEL), overwrite=True)
        return f"{_PREFIX}{self._name}:{name}"

    async def upload_async(self, data: bytes, *, instance_id: str | None = None) -> str:
        return await asyncio.to_thread(self.upload, data, instance_id=instance_id)

    def download(self, token: str) -> bytes:
        name = token.removeprefix(f"{_PREFIX}{self._name}:")
        with _translated(f"read payload {name!r} of container {self._name!r}"):
            stream = self._client.download_blob(name)
            if stream.size > self._max + 65_536:
                raise too_large(stream.size, self._max)
            found = stream.readall()
        return self._decompressed(found, name)

    def _decompressed(self, found: bytes, name: str) -> bytes:
        if found[:2] != b"\x1f\x8b":
            return found  # of a worker whose store does not compress
        reader = zlib.decompressobj(_GZIP)
        try:
            data = reader.decompress(found, self._max + 1)
        except zlib.error:
            raise LargePayloadLost(f"payload {name!r} of container {self._name!r} is damaged") from None
        if len(data) > self._max:
            raise too_large(len(data), self._max)
        if not reader.eof:
            raise LargePayloadLost(f"payload {name!r} of container {self._name!r} was cut off")
        return data

    async def download_async(self, token: str) -> bytes:
        return await asyncio.to_thread(self.download, token)

    def is_known_token(self, value: str) -> bool:
        return value.startswith(f"{_PREFIX}{self._name}:")

    def remove(self, instance_id: str) -> int:
        """Delete the payloads of an instance; return their number."""
        prefixes = {f"{_escaped(instance_id)}/", f"{instance_id}/"}  # the SDK's own store writes ids as they are
        found = [name for prefix in prefixes for name in self._names(prefix) if "/" not in name[len(prefix) :]]
        return sum(self._delete(name) for name in found)

    def _names(self, prefix: str) -> Iterator[str]:
        with _translated(f"list the payloads of container {self._name!r}"):
            try:
                for found in self._client.list_blob_names(name_starts_with=prefix):
                    yield str(found)
            except ResourceNotFoundError:
                return  # no payload was stored yet

    def _delete(self, name: str) -> bool:
        with _translated(f"delete payload {name!r} of container {self._name!r}"):
            try:
                self._client.delete_blob(name)
            except ResourceNotFoundError:
                return False
        return True

    async def owners(self, age: float) -> AsyncIterator[str]:
        """Ids of the instances all of whose payloads are older than `age` seconds."""
        latest = datetime.now(UTC) - timedelta(seconds=age)
        owner, is_old = "", False
        blobs = self._client.list_blobs(results_per_page=_PAGE)
        pages = blobs.by_page()
        while (page := await asyncio.to_thread(self._next_page, pages)) is not None:
            for name, modified in page:
                found, slash, _ = name.rpartition("/")
                if not slash:
                    continue
                if found != owner:
                    if owner and is_old:
                        yield unquote(owner)
                    owner, is_old = found, True
                is_old = is_old and modified < latest
        if owner and is_old:
            yield unquote(owner)

    def _next_page(self, pages: Any) -> list[tuple[str, datetime]] | None:
        with _translated(f"list the payloads of container {self._name!r}"):
            try:
                return [(each.name, each.last_modified) for each in next(pages)]
            except (StopIteration, ResourceNotFoundError):
                return None


def _connected(config: BlobStoreConfig | TargetBlobConfig) -> ContainerClient:
    """Client of the container. Raises: ValueError when the account cannot be used."""
    bounds: dict[str, Any] = {
        "retry_total": _RETRIES,
        "retry_connect": _RETRIES,
        "initial_backoff": 1,
        "increment_base": 2,
        "connection_timeout": _CONNECT_SECONDS,
        "read_timeout": _READ_SECONDS,
    }
    if isinstance(config, BlobStoreConfig) and config.connection_string is not None:
        return ContainerClient.from_connection_string(
            config.connection_string.get_secret_value(), config.container, **bounds
        )
    assert config.account_url is not None
    credential = synchronous_credential(config.credential, config.client_id)
    return ContainerClient(config.account_url, config.container, credential=credential, **bounds)


def claim_store(config: BlobStoreConfig | TargetBlobConfig) -> Callable[[str, bytes], str]:
    """Function that stores a payload under a name and returns its address. Raises: ValueError.

    The function raises BridgeError.
    """
    client = _connected(config)
    made: list[bool] = []

    def put(name: str, payload: bytes) -> str:
        with _translated(f"store a payload of {len(payload)} bytes in container {config.container!r}"):
            if not made:
                with suppress(ResourceExistsError):
                    client.create_container()
                made.append(True)
            client.upload_blob(name, payload, overwrite=True)
            url: str = client.get_blob_client(name).url
        return url.partition("?")[0]

    return put


async def sweep(
    engine: str, store: BlobPayloadStore, client: EngineClient, *, age: float = DAY_SECONDS, period: float = DAY_SECONDS
) -> None:
    """Delete the payloads of instances that are gone, again and again. Runs until it is cancelled.

    The engine reports neither the end of its retention nor the purge of children. Payloads younger than `age` seconds
    stay: a start may be on its way.
    """
    while True:
        # Several daemons share the work by chance: a payload that is gone costs nothing
        await asyncio.sleep(random.uniform(0.5, 1.0) * period)  # noqa: S311 -- spreads the daemons
        try:
            await sweep_once(engine, store, client, age)
        except EngineError as error:
            log.warning(f"large payloads of gone instances stay for now: {error}", action="payload", engine=engine)


async def sweep_once(engine: str, store: BlobPayloadStore, client: EngineClient, age: float) -> int:
    """Delete the payloads of instances that are gone; return their number. Raises: EngineError."""
    removed = 0
    async for owner in store.owners(age):
        # Entities of workers in other languages: their end is not known
        if owner.startswith("@") or await client.find_instance(owner, fetch_payloads=False) is not None:
            continue
        removed += await asyncio.to_thread(store.remove, owner)
    if removed:
        log.info(f"deleted {removed} large payloads of instances that are gone", action="payload", engine=engine)
    return removed


def _escaped(instance_id: str) -> str:
    """Name of an instance's part of the container. The characters of most ids stay as the SDK writes them."""
    return quote(instance_id, safe="@:-_.~ ")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate errors of the storage client. Its texts may quote addresses with signatures: only codes are named."""
    try:
        yield
    except ResourceNotFoundError:
        raise LargePayloadLost(f"cannot {what}: there is no such blob") from None
    except ClientAuthenticationError as error:
        raise EngineDenied(f"cannot {what}: no token, or it is refused ({type(error).__name__})") from None
    except HttpResponseError as error:
        if error.status_code in (401, 403):
            raise EngineDenied(f"cannot {what}: the storage account answers {error.status_code}") from None
        raise PayloadStoreUnavailable(f"cannot {what}: the storage account answers {error.status_code}") from None
    except AzureError as error:
        raise PayloadStoreUnavailable(f"cannot {what}: {type(error).__name__}") from None
