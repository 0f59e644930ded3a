"""Server of the engine for other processes: on a Unix domain socket, or on a TCP port where one is configured."""

from __future__ import annotations

import asyncio
import functools
import hmac
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.sqlite_engine.defaults import MAX_CONNECTIONS, MAX_REQUEST
from bridge.sqlite_engine.hub.leases import TAKES_BACK
from bridge.sqlite_engine.model.failures import parse
from bridge.sqlite_engine.protocol.payloads import PayloadTransfers
from bridge.sqlite_engine.protocol.service import AioSidecarService
from bridge.system import forks
from bridge.system.addresses import is_loopback
from bridge.system.tls import TlsFiles, TlsProblem

GRACE_SECONDS = 0.5
HANDSHAKE_SECONDS = 20
"""Seconds within which a connection must complete its TLS and HTTP/2 handshakes."""
IDLE_SECONDS = 75
"""Seconds without a call after which a connection is closed; clients open another one automatically."""
PING_SECONDS = 3
"""Seconds between keepalive pings to a silent peer. The client library answers, even when its process hangs."""
PONG_SECONDS = 5
"""Seconds for the ping's answer.

After that the connection ends, and the work of a frozen or disconnected worker is requeued.
"""
MAX_STREAMS = 1024
"""Largest number of concurrent calls on one connection."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Access rules and limits of an engine port.

    token: expected in `authorization: Bearer ...`.
    behind_tls_proxy: True when another process terminates TLS.
    max_message: bytes.
    """

    token: str | None = None
    tls: TlsFiles | None = None
    behind_tls_proxy: bool = False
    max_message: int = MAX_REQUEST
    max_connections: int = MAX_CONNECTIONS

    def check(self, address: str) -> None:
        """Refuse an address that strangers could call, or whose traffic they could read.

        Raises: EngineMisconfigured.
        """
        if is_loopback(address.rpartition(":")[0]):
            return
        if self.token is None and (self.tls is None or not self.tls.asks_clients):
            raise EngineMisconfigured(
                f"{address}: an engine port that is not loopback needs a token, or certificates of clients"
            )
        if self.tls is None and not self.behind_tls_proxy:
            raise EngineMisconfigured(
                f"{address}: an engine port that is not loopback needs TLS, since the token would travel in the clear; "
                "where another process terminates TLS, say that it is behind a TLS proxy"
            )

    def options(self) -> list[tuple[str, int]]:
        """Limits as gRPC options."""
        return [
            ("grpc.max_receive_message_length", self.max_message),
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.max_concurrent_streams", MAX_STREAMS),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
            ("grpc.max_connection_idle_ms", IDLE_SECONDS * 1000),
            # A compressed message would be expanded in memory before its size is refused.
            ("grpc.compression_enabled_algorithms_bitset", 1),
        ]


ANSWERS = {
    "CompleteActivityTask": pb.ActivityResponse,
    "CompleteOrchestratorTask": pb.OrchestratorResponse,
    "CompleteEntityTask": pb.EntityBatchResult,
}


class Server:
    """gRPC server with an event loop and thread of its own.

    addresses: `unix:/path/of/socket`, or `host:port`; port 0 selects a free port.
    guard: rules for ports; None for sockets, which the mode of their directory protects.
    """

    def __init__(self, service: AioSidecarService, addresses: Sequence[str], guard: Guard | None = None) -> None:
        """Check the addresses. Raises: EngineMisconfigured when a port is open to callers without credentials."""
        ports = [address for address in addresses if not address.startswith("unix:")]
        if ports and guard is None:
            guard = Guard()
        for address in ports:
            assert guard is not None
            guard.check(address)
        service.group_operations()
        self._service = service
        self._addresses = tuple(addresses)
        self._guard = guard
        self.ports: list[int] = []
        """Bound ports, in the order of the addresses; 1 for a socket."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Bind the addresses and serve.

        Raises: EngineUnavailable when an address cannot be bound, EngineMisconfigured when TLS files cannot be used.
        """
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
        """End all calls after a grace period of GRACE_SECONDS, and stop the server. Idempotent."""
        if self._thread is None or self._loop is None or self._ended is None:
            return
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    async def _serve(self, begun: Future[None]) -> None:
        guard = self._guard
        bounds = [("grpc.max_receive_message_length", -1)] if guard is None else guard.options()
        pings = [
            ("grpc.keepalive_time_ms", PING_SECONDS * 1000),
            ("grpc.keepalive_timeout_ms", PONG_SECONDS * 1000),
            ("grpc.http2.ping_timeout_ms", PONG_SECONDS * 1000),
            ("grpc.http2.max_pings_without_data", 0),
        ]
        server = grpc.aio.server(
            interceptors=[_TokenCheck(guard.token)] if guard is not None and guard.token is not None else [],
            options=(*bounds, *pings, ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)),
        )
        add_TaskHubSidecarServiceServicer_to_server(self._service, _Registration(server))
        server.add_generic_rpc_handlers((PayloadTransfers(self._service).handler(),))
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            credentials = None if guard is None or guard.tls is None else _credentials(guard.tls)
            for address in self._addresses:
                self.ports.append(
                    server.add_insecure_port(address)
                    if credentials is None
                    else server.add_secure_port(address, credentials)
                )
            await server.start()
        except TlsProblem as problem:
            begun.set_exception(EngineMisconfigured(str(problem)))
            return
        except RuntimeError as error:
            begun.set_exception(EngineUnavailable(f"{', '.join(self._addresses)}: cannot be listened on: {error}"))
            return
        own = [
            address.removeprefix("unix:") if address.startswith("unix:") else port
            for address, port in zip(self._addresses, self.ports, strict=True)
        ]
        for each in own:
            forks.add_address(each)
        begun.set_result(None)
        await self._ended.wait()
        await server.stop(GRACE_SECONDS)
        for each in own:
            forks.remove_address(each)
        # Cancelled calls end in later turns of the loop. gRPC would report those that the end of the loop cancels again
        if calls := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(calls, timeout=GRACE_SECONDS)
        self._service.end_operations()


def _credentials(files: TlsFiles) -> Any:
    """Credentials that are read again at every handshake when their files change. Raises: TlsProblem."""
    configured = files.load()

    def configuration() -> Any:
        pairs = [(configured.key, configured.certificate)]
        return grpc.ssl_server_certificate_configuration(pairs, root_certificates=configured.client_ca)

    def fetch() -> Any:
        nonlocal configured
        fresh = files.current()
        if fresh is configured:
            return None
        configured = fresh
        return configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client_authentication=files.asks_clients)


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpcio ships no type information
    """Interceptor that passes only calls with the token.

    Other calls are answered by a stream handler, which reads no request: gRPC reads and parses the body of a call only
    when a handler requests it.
    """

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusal = grpc.stream_unary_rpc_method_handler(_refuse)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        sent = dict(details.invocation_metadata).get("authorization", "")
        if hmac.compare_digest(sent.encode(), self._expected):
            return await continuation(details)
        return self._refusal


class _Registration:
    """Server, as generated code registers methods with it: workers' responses are parsed however deep failures nest.

    Protobuf reads a limited depth. The answer to Hello tells workers that this engine takes back the work of a stopping
    worker. An interceptor that changes handlers would cost each call its time.
    """

    def __init__(self, server: Any) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Ignore the handlers, which `add_registered_method_handlers` gets too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        changed = {name: _parsing(handler, ANSWERS.get(name)) for name, handler in handlers.items()}
        changed["Hello"] = _greeting(changed["Hello"])
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, changed),))
        self._server.add_registered_method_handlers(service, changed)


def _greeting(handler: Any) -> Any:
    """Handler that also answers that this engine takes back work."""

    async def greet(request: Any, context: Any) -> Any:
        await context.send_initial_metadata(((TAKES_BACK, "1"),))
        return await handler.unary_unary(request, context)

    return grpc.unary_unary_rpc_method_handler(greet, handler.request_deserializer, handler.response_serializer)


def _parsing(handler: Any, kind: Any) -> Any:
    """Handler that parses its requests as messages of this class with `parse`; None changes nothing."""
    if kind is None:
        return handler
    return grpc.unary_unary_rpc_method_handler(
        handler.unary_unary, functools.partial(parse, kind), handler.response_serializer
    )


async def _refuse(requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The engine's token is missing or wrong")
