"""Engine port against unauthenticated clients: `bridge engine` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub
from google.protobuf.wrappers_pb2 import StringValue

from tests.kit.waiting import TIMEOUT

TOKEN = "t0ken-of-more-than-thirty-two-characters"
GOOD = (("authorization", f"Bearer {TOKEN}"),)
MIB = 1024 * 1024
pytestmark = pytest.mark.timeout(120)


class Engine:
    """`bridge engine --token-file` on loopback."""

    def __init__(self, directory: Path, *options: str) -> None:
        (directory / "token").write_text(TOKEN)
        ready = directory / "ready"
        command = [
            "engine", "--listen", "127.0.0.1:0", "--path", str(directory / "hubs"),
            "--token-file", str(directory / "token"), "--ready-file", str(ready), *options,
        ]  # fmt: skip
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "bridge", *command], cwd=directory, stderr=log)
        end = time.monotonic() + TIMEOUT
        while not ready.exists() or not ready.read_bytes():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end
            time.sleep(0.02)
        self.address: str = json.loads(ready.read_bytes())["address"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT)

    def peak(self) -> int:
        """Peak resident memory, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    @contextlib.contextmanager
    def stub(self, **options: Any) -> Iterator[TaskHubSidecarServiceStub]:
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(self.address, options=sizes, **options) as channel:
            yield TaskHubSidecarServiceStub(channel)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = Engine(tmp_path)
    yield engine
    assert engine.stop() == 0


def big(size: int) -> pb.CreateInstanceRequest:
    return pb.CreateInstanceRequest(instanceId="big", name="n", input=StringValue(value="x" * size))


def code(call: Any, request: Any, **options: Any) -> grpc.StatusCode:
    try:
        call(request, timeout=TIMEOUT, **options)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),), (("authorization", "Basic x"),)])
def test_a_stranger_s_large_request_costs_nothing(engine: Engine, metadata: Any) -> None:
    before = engine.peak()
    with engine.stub() as stub:
        assert code(stub.StartInstance, big(300 * MIB), metadata=metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert engine.peak() - before < 30 * MIB


def test_a_request_beyond_the_limit_is_refused_before_it_is_held(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "--max-message", "8MiB")
    try:
        before = engine.peak()
        with engine.stub() as stub:
            assert code(stub.StartInstance, big(300 * MIB), metadata=GOOD) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert engine.peak() - before < 30 * MIB
            assert code(stub.StartInstance, big(7 * MIB), metadata=GOOD) is grpc.StatusCode.OK
        # Compressed it is small; its uncompressed size counts
        with engine.stub(compression=grpc.Compression.Gzip) as stub:
            before = engine.peak()
            assert code(stub.StartInstance, big(300 * MIB), metadata=GOOD) is not grpc.StatusCode.OK
            assert engine.peak() - before < 60 * MIB
    finally:
        assert engine.stop() == 0


def test_the_default_limit_is_64_mib(engine: Engine) -> None:
    with engine.stub() as stub:
        assert code(stub.StartInstance, big(65 * MIB), metadata=GOOD) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_larger_limit_holds_for_the_engine_behind_the_port(tmp_path: Path) -> None:
    engine = Engine(tmp_path, "--max-message", "72MiB")
    try:
        with engine.stub() as stub:
            assert code(stub.StartInstance, big(65 * MIB), metadata=GOOD) is grpc.StatusCode.OK
    finally:
        assert engine.stop() == 0


def test_connections_are_bounded(tmp_path: Path) -> None:
    """Connections above the limit are closed at once, the others continue, and closed ones make room."""
    engine = Engine(tmp_path, "--max-connections", "20")
    try:
        host, _, port = engine.address.rpartition(":")
        with engine.stub() as stub:
            assert code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD) is grpc.StatusCode.OK
            with contextlib.ExitStack() as stack:
                strangers = [stack.enter_context(socket.create_connection((host, int(port)), 5)) for _ in range(100)]
                files = Path(f"/proc/{engine.process.pid}/fd")
                end = time.monotonic() + TIMEOUT
                while sum("socket" in str(_target(each)) for each in files.iterdir()) > 40:
                    assert time.monotonic() < end
                    time.sleep(0.05)
                assert (
                    code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD) is grpc.StatusCode.OK
                )
                assert len(strangers) == 100
        with engine.stub() as stub:
            assert (
                code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD, wait_for_ready=True)
                is grpc.StatusCode.OK
            )
    finally:
        assert engine.stop() == 0


def _target(link: Path) -> Path | None:
    with contextlib.suppress(OSError):
        return link.readlink()
    return None


def test_every_method_asks_for_the_token(engine: Engine) -> None:
    """Unknown methods require the token, too."""
    with engine.stub() as stub:
        for name, call in vars(stub).items():
            with pytest.raises(grpc.RpcError) as refused:
                list(_call(name, call))
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, name
    with grpc.insecure_channel(engine.address) as channel:
        unknown = channel.unary_unary("/TaskHubSidecarService/Nothing", lambda request: request, lambda answer: answer)
        assert code(unknown, b"") is grpc.StatusCode.UNAUTHENTICATED
        assert code(unknown, b"", metadata=GOOD) is grpc.StatusCode.UNIMPLEMENTED


def _call(name: str, call: Any) -> Any:
    kind = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"].methods_by_name[name].input_type
    return call(kind._concrete_class(), timeout=TIMEOUT)
