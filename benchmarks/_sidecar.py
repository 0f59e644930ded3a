"""Durable Task sidecar on a free loopback port, in its own process: the SDK's in-memory backend over gRPC."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures

import grpc
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server
from durabletask.testing import InMemoryOrchestrationBackend


def main() -> None:
    gc.disable()  # garbage collection would slow down later measurements
    server = grpc.server(futures.ThreadPoolExecutor(16))
    add_TaskHubSidecarServiceServicer_to_server(InMemoryOrchestrationBackend(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)


@contextlib.contextmanager
def sidecar() -> Iterator[str]:
    """Start a new sidecar. Yields its address, `127.0.0.1:port`."""
    command = [sys.executable, "-m", "benchmarks._sidecar"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()


if __name__ == "__main__":
    main()
