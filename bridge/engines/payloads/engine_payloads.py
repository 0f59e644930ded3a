"""Store of large payloads for a process that reaches its engine over a port: the engine keeps the files.

This process encrypts and decrypts. Files travel in parts, so no message reaches the limits of gRPC.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import grpc

from bridge.core.errors import (
    EngineMisconfigured,
    EngineUnavailable,
    LargePayloadLost,
    LargePayloadRefused,
    PayloadStoreUnavailable,
)
from bridge.engines.errors import details_of, status_of, translate
from bridge.engines.payloads.large_payloads import ReferencePayloadStore
from bridge.large_payloads.files import TAG_BYTES, seal, too_large, unseal
from bridge.large_payloads.reference import Reference
from bridge.sqlite_engine.defaults import MAX_PAYLOAD
from bridge.sqlite_engine.protocol.payloads import DOWNLOAD, PART, SERVICE, UPLOAD

SECONDS = 30.0
"""Deadline of a transfer, beside the time for its bytes."""

SLOWEST = 1024 * 1024
"""Bytes in a second that a transfer has at least."""


class EnginePayloadStore(ReferencePayloadStore):
    """Store of an engine behind a port. Methods may be called from any thread.

    connect: makes the channel, with the first transfer. headers: of each call.
    above: bytes above which a payload is stored; None: none is, and stored ones are still read.
    most: bytes of the largest payload.
    """

    def __init__(
        self,
        connect: Callable[[], grpc.Channel],
        headers: Callable[[], Sequence[tuple[str, str]]],
        above: int | None = None,
        most: int = MAX_PAYLOAD,
    ) -> None:
        super().__init__(above)
        self._connect = connect
        self._headers = headers
        self._most = most
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None

    def close(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def write(self, data: bytes) -> Reference:
        if len(data) > self._most:
            raise too_large(len(data), self._most)
        reference, content = seal(data)
        head = f"{reference.name} {len(content)}".encode()
        with _translated(f"store a payload of {len(data)} bytes"):
            call = self._opened().stream_unary(f"/{SERVICE}/{UPLOAD}", None, None)
            call(_parts(head, content), timeout=_seconds(len(content)), metadata=self._headers())
        return reference

    def download(self, token: str) -> bytes:
        try:
            reference = Reference.parse(token)
        except ValueError as error:
            raise LargePayloadLost(f"a large payload cannot be read: {error}") from None
        if reference.size > self._most:
            raise too_large(reference.size, self._most)
        size = reference.size + TAG_BYTES
        content = bytearray()
        with _translated(f"read payload {reference.name}"):
            call = self._opened().unary_stream(f"/{SERVICE}/{DOWNLOAD}", None, None)
            parts = call(reference.name.encode(), timeout=_seconds(size), metadata=self._headers())
            for part in parts:
                content += part
                if len(content) > size:
                    parts.cancel()
                    break
        if len(content) != size:
            raise LargePayloadLost(
                f"payload {reference.name}: the engine's file was cut off or altered; restore it from a backup"
            )
        return unseal(reference, bytes(content), reference.name)

    def _opened(self) -> grpc.Channel:
        with self._lock:
            if self._channel is None:
                self._channel = self._connect()
            return self._channel


def _parts(head: bytes, content: bytes) -> Iterator[bytes]:
    yield head
    for begin in range(0, len(content), PART):
        yield content[begin : begin + PART]


def _seconds(size: int) -> float:
    return SECONDS + size / SLOWEST


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """Translate errors of a transfer. Raises: EngineError."""
    try:
        yield
    except (grpc.RpcError, ValueError) as error:
        status: Any = status_of(error)
        details = details_of(error)
        if status is grpc.StatusCode.NOT_FOUND:
            raise LargePayloadLost(
                f"cannot {what}: the engine has no such file; restore it from a backup, or check `payloads`"
            ) from error
        if status is grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise LargePayloadRefused(f"cannot {what}: {details}") from error
        if status is grpc.StatusCode.UNIMPLEMENTED:
            raise EngineMisconfigured(
                f"cannot {what}: the engine keeps no large payloads; `store: {{type: engine}}` needs an engine of this "
                "version of the bridge"
            ) from error
        found = translate(error, what=what)
        if type(found) is EngineUnavailable:
            raise PayloadStoreUnavailable(f"{found}{details and f' ({details})'}") from error
        raise found from error
