"""Sidecar on loopback gRPC, as remote engines see one: with metadata, tokens, faults and outages."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import durabletask.internal.orchestrator_service_pb2_grpc as stubs
import grpc

from bridge.engines.embedded.host_rules import BridgeRules
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.options import DatabaseOptions, HostRules
from bridge.sqlite_engine.protocol.service import SidecarService


class Gatekeeper(grpc.ServerInterceptor):
    """Interceptor that records metadata by method and refuses calls without the token."""

    def __init__(self) -> None:
        self.seen: dict[str, list[dict[str, str]]] = {}
        self.token: str | None = None
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.refused_methods: set[str] = set()
        """Methods that are refused for lack of a permission."""
        self.unimplemented: frozenset[str] = frozenset()
        """Methods that the protocol of the server does not have."""
        self.date: str | None = None
        """Date in the first metadata of answers, as HTTP servers send it."""

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        metadata = {key: value for key, value in details.invocation_metadata if isinstance(value, str)}
        self.seen.setdefault(details.method.rpartition("/")[2], []).append(metadata)
        refusal = self.refusal
        if self.token is not None and metadata.get("authorization") != f"Bearer {self.token}":
            refusal = (grpc.StatusCode.UNAUTHENTICATED, "no valid token")
        if details.method.rpartition("/")[2] in self.refused_methods:
            refusal = (grpc.StatusCode.PERMISSION_DENIED, "no access")
        if details.method.rpartition("/")[2] in self.unimplemented:
            refusal = (grpc.StatusCode.UNIMPLEMENTED, "unknown method for service TaskHubSidecarService")
        handler = continuation(details)
        if refusal is None:
            return handler if self.date is None or handler.response_streaming else self._dated(handler, self.date)

        def refuse(request: Any, context: Any) -> Any:
            context.abort(*refusal)

        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(refuse, handler.request_deserializer)
        return grpc.unary_unary_rpc_method_handler(refuse, handler.request_deserializer)

    @staticmethod
    def _dated(handler: Any, date: str) -> Any:
        def answer(request: Any, context: Any) -> Any:
            context.send_initial_metadata((("date", date),))
            return handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


class Sidecar:
    def __init__(self, directory: Path, rules: HostRules | None = None) -> None:
        self.database = Database(directory / "sidecar.db", DatabaseOptions(rules=rules or BridgeRules()))
        self.database.start()
        self.gate = Gatekeeper()
        self.port = 0
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(64)
        server = grpc.server(self._pool, interceptors=[self.gate], options=[("grpc.so_reuseport", 0)])
        stubs.add_TaskHubSidecarServiceServicer_to_server(SidecarService(self.database), server)
        self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
        server.start()
        self._server = server

    def go_away(self) -> None:
        """Stop serving; the instances stay."""
        assert self._server is not None
        self._server.stop(0).wait()
        self._server = None

    def close(self) -> None:
        self.database.stop()
        if self._server is not None:
            self.go_away()
