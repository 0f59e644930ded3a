"""Serves the engine to other processes: on a Unix domain socket, or a TCP port when one is asked for."""

from __future__ import annotations

import asyncio
import functools
import hmac
import ipaddress
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

import grpc  # type: ignore[import-untyped]  # grpcio ships no type information
import grpc.aio  # type: ignore[import-untyped]  # grpcio ships no type information
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server

from bridge.engines.embedded.aio import AioSidecarService
from bridge.engines.embedded.reading import parse
from bridge.errors import EngineMisconfigured, EngineUnavailable

GRACE_SECONDS = 0.5

ANSWERS = {
    "CompleteActivityTask": pb.ActivityResponse,
    "CompleteOrchestratorTask": pb.OrchestratorResponse,
    "CompleteEntityTask": pb.EntityBatchResult,
}


class Server:
    """A gRPC server on an event loop and thread of its own.

    addresses: `unix:/path/of/socket`, or `host:port`; port 0 takes a free one. A host that is not loopback needs
        `token`, which clients then send as `authorization: Bearer ...`.
    """

    def __init__(self, service: AioSidecarService, addresses: Sequence[str], token: str | None = None) -> None:
        for address in addresses:
            if token is None and not _is_local(address):
                raise EngineMisconfigured(f"{address}: an engine port that is not loopback needs a token")
        self._service = service
        self._addresses = tuple(addresses)
        self._token = token
        self.ports: list[int] = []
        """The ports listened on, in the order of the addresses; 1 for a socket."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Raises: EngineUnavailable when an address cannot be listened on."""
        begun: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(begun)), name="engine-server", daemon=True
        )
        self._thread.start()
        try:
            begun.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Ends all calls after a short grace. Idempotent."""
        if self._thread is None or self._loop is None or self._ended is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    async def _serve(self, begun: Future[None]) -> None:
        interceptors: list[Any] = [_DeepAnswers()]
        if self._token is not None:
            interceptors.insert(0, _TokenCheck(self._token))
        server = grpc.aio.server(
            interceptors=interceptors,
            options=(
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ),
        )
        add_TaskHubSidecarServiceServicer_to_server(self._service, server)  # type: ignore[no-untyped-call]  # generated
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            for address in self._addresses:
                self.ports.append(server.add_insecure_port(address))
            await server.start()
        except RuntimeError as error:
            begun.set_exception(EngineUnavailable(f"{', '.join(self._addresses)}: cannot be listened on: {error}"))
            return
        begun.set_result(None)
        await self._ended.wait()
        await server.stop(GRACE_SECONDS)


def _is_local(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Lets calls through that carry the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        sent = dict(details.invocation_metadata).get("authorization", "")
        if handler is None or hmac.compare_digest(sent.encode(), self._expected):
            return handler
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(_refuse_stream, handler.request_deserializer)
        return grpc.unary_unary_rpc_method_handler(_refuse, handler.request_deserializer)


class _DeepAnswers(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Reads workers' answers also where their failures are nested deeper than protobuf reads."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        kind = ANSWERS.get(details.method.rpartition("/")[2])
        if handler is None or kind is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            handler.unary_unary, functools.partial(parse, kind), handler.response_serializer
        )


async def _refuse(request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The engine's token is missing or wrong")


async def _refuse_stream(request: Any, context: Any) -> Any:
    await _refuse(request, context)
    yield
