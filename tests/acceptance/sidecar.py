"""Durable Task sidecar (the SDK's backend over gRPC) that can be frozen, killed and restarted on its port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager

import grpc
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server
from durabletask.testing import InMemoryOrchestrationBackend


class Sidecar:
    """Sidecar in a process of its own. State is in memory: a kill loses it."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = int(server.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and return when it serves."""
        command = [sys.executable, "-m", "tests.acceptance.sidecar", str(self.port)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"serving\n"

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


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
