"""Durable Task sidecar (the SDK's backend over gRPC) that can be frozen, killed and restarted on its port."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server
from durabletask.testing import InMemoryOrchestrationBackend

from tests.kit.processes import ModuleProcess


class Sidecar:
    """Sidecar in a process of its own. State is in memory: a kill loses it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = int(server.getsockname()[1])
        self._process: ModuleProcess | None = None

    def start(self) -> None:
        """Start the process and return when it serves."""
        self._process = ModuleProcess("tests.acceptance.sidecar", self.port)
        assert self._process.read() == "serving"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.signal(signal.SIGCONT)


@contextmanager
def running() -> Iterator[Sidecar]:
    """Yield a running sidecar and kill it at the end."""
    sidecar = Sidecar()
    sidecar.start()
    try:
        yield sidecar
    finally:
        sidecar.kill()


def serve(port: int) -> None:
    """Serve until standard input ends, when the parent process has ended."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    add_TaskHubSidecarServiceServicer_to_server(InMemoryOrchestrationBackend(), server)
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    print("serving", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
