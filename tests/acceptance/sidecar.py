"""A Durable Task sidecar that can be frozen, killed and started again on its port: the SDK's backend over gRPC."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
from durabletask.internal.orchestrator_service_pb2_grpc import add_TaskHubSidecarServiceServicer_to_server
from durabletask.testing import InMemoryOrchestrationBackend


class Sidecar:
    """A process of its own, in memory: killing it loses what it had.

    raised: JSON Lines file that it notes every event in that it took, as [instance id, name, data].
    """

    def __init__(self, raised: Path | None = None) -> None:
        self._raised = raised
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = int(server.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it serves."""
        command = [sys.executable, "-m", "tests.acceptance.sidecar", str(self.port), str(self._raised or os.devnull)]
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
def running(raised: Path | None = None) -> Iterator[Sidecar]:
    """One that serves, killed at the end."""
    sidecar = Sidecar(raised)
    sidecar.start()
    try:
        yield sidecar
    finally:
        sidecar.kill()


class Backend(InMemoryOrchestrationBackend):
    """The SDK's, which notes the events that it took."""

    def __init__(self, raised: TextIO) -> None:
        super().__init__()
        self._raised = raised

    def RaiseEvent(self, request: pb.RaiseEventRequest, context: Any) -> pb.RaiseEventResponse:  # noqa: N802 -- the protocol's name
        answer = super().RaiseEvent(request, context)
        if not context.code():
            self._raised.write(json.dumps([request.instanceId, request.name, json.loads(request.input.value)]) + "\n")
            self._raised.flush()
        return answer


def serve(port: int, raised: Path) -> None:
    """Until standard input ends: whoever started it is gone then."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    with raised.open("a") as file:
        add_TaskHubSidecarServiceServicer_to_server(Backend(file), server)
        assert server.add_insecure_port(f"127.0.0.1:{port}") == port
        server.start()
        print("serving", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
