"""Transfer of large payloads between an engine and processes that cannot reach its files.

A file travels in parts, as it lies on disk: encrypted with the key in its reference. The engine neither reads nor holds
a payload, and a transfer needs the memory of two parts. The service is the bridge's own, beside the SDK's protocol.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import grpc

from bridge.large_payloads.files import TAG_BYTES
from bridge.sqlite_engine.model.reply import Rejection, exhausted, invalid_argument, unavailable
from bridge.sqlite_engine.protocol.service import AioSidecarService

T = TypeVar("T")

SERVICE = "bridge.engine.Payloads"
DOWNLOAD = "Download"
"""Method with the name of a file as its request, and the parts of the file as its responses."""

UPLOAD = "Upload"
"""Method with `NAME SIZE` and then the parts of a file as its requests, and an empty response."""

PART = 256 * 1024
"""Bytes of one part."""

MAX_TRANSFERS = 32
"""Transfers that a server works on at once. Further ones wait."""

PART_SECONDS = 30.0
"""Longest time between two parts of an upload."""

_NAME = re.compile(rb"[0-9a-f]{32}")
_HEAD = re.compile(rb"([0-9a-f]{32}) ([0-9]{1,15})")


class PayloadTransfers:
    """Handlers of the service."""

    def __init__(self, service: AioSidecarService) -> None:
        self._service = service
        self._slots = asyncio.Semaphore(MAX_TRANSFERS)

    def handler(self) -> Any:
        """Handler for gRPC. Requests and responses are bytes."""
        methods = {
            DOWNLOAD: grpc.unary_stream_rpc_method_handler(self._download),
            UPLOAD: grpc.stream_unary_rpc_method_handler(self._upload),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    async def _download(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            async with self._slots:
                async for part in self._parts(request, context):
                    yield part
        except Rejection as rejection:
            await context.abort(rejection.code, rejection.details)

    async def _parts(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        if not _NAME.fullmatch(request):
            raise invalid_argument("The name of a large payload has 32 hexadecimal digits")
        files = self._service.database(context).hub.files
        try:
            content = await _in_thread(files.content, request.decode())
        except FileNotFoundError:
            raise Rejection(grpc.StatusCode.NOT_FOUND, "There is no such payload") from None
        except OSError as error:
            raise _cannot("read", error) from error
        with content:
            while True:
                try:
                    part = await _in_thread(content.read, PART)
                except OSError as error:
                    raise _cannot("read", error) from error
                if not part:
                    return
                yield part

    async def _upload(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            async with self._slots:
                await self._store(aiter(requests), context)
        except Rejection as rejection:
            await context.abort(rejection.code, rejection.details)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"No part arrived within {PART_SECONDS:g} s")
        except OSError as error:
            refusal = _cannot("written", error)
            await context.abort(refusal.code, refusal.details)
        return b""

    async def _store(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Write a file from its parts. Raises: Rejection, TimeoutError, OSError."""
        head = _HEAD.fullmatch(await _next(requests))
        if head is None:
            raise invalid_argument("A large payload begins with its name and size")
        name, size = head[1].decode(), int(head[2])
        database = self._service.database(context)
        most = database.options.max_payload
        if size > most + TAG_BYTES:
            raise exhausted(
                f"The payload has {size - TAG_BYTES} bytes; `payloads.max` of the engine allows {most} "
                "(`--max-payload` of `bridge engine`)"
            )
        file = await _in_thread(database.hub.files.incoming, name)
        with file:
            left = size
            while left:
                part = await _next(requests)
                left -= len(part)
                if not part or left < 0:
                    raise invalid_argument("The parts of a large payload do not have its size")
                await _in_thread(file.write, part)
            await _in_thread(file.finish)


async def _in_thread(call: Callable[..., T], *given: Any) -> T:
    """Call a function in a thread. A cancellation waits for its end: nobody closes a file that the thread uses."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *given))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def _next(requests: AsyncIterator[bytes]) -> bytes:
    """Next part; empty at the end. Raises: TimeoutError."""
    async with asyncio.timeout(PART_SECONDS):
        return await anext(requests, b"")


def _cannot(done: str, error: OSError) -> Rejection:
    return unavailable(f"A large payload cannot be {done}: {os.strerror(error.errno) if error.errno else 'no cause'}")
