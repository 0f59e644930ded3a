"""Engine port against unauthenticated clients: `bridge engine` in a process of its own."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub
from google.protobuf.wrappers_pb2 import StringValue

from tests.kit.processes import DaemonProcess
from tests.kit.waiting import TIMEOUT, eventually_blocking

TOKEN = "t0ken-of-more-than-thirty-two-characters"
GOOD = (("authorization", f"Bearer {TOKEN}"),)
MIB = 1024 * 1024
pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]


class Engine(DaemonProcess):
    """`bridge engine --token-file` on loopback."""

    def __init__(self, directory: Path, *options: str) -> None:
        token = directory / "token"
        token.write_text(TOKEN)
        options = ("--listen", "127.0.0.1:0", "--path", "hubs", "--token-file", str(token), *options)
        super().__init__(directory, *options, command="engine")

    @property
    def address(self) -> str:
        return str(self.ready["address"])

    def peak(self) -> int:
        """Peak resident memory, in bytes."""
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024

    @contextlib.contextmanager
    def stub(self, **options: Any) -> Iterator[TaskHubSidecarServiceStub]:
        sizes = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(self.address, options=sizes, **options) as channel:
            yield TaskHubSidecarServiceStub(channel)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path) as engine:
        yield engine
        engine.stop()


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
        assert code(stub.StartInstance, big(100 * MIB), metadata=metadata) is grpc.StatusCode.UNAUTHENTICATED
    assert engine.peak() - before < 30 * MIB


def test_a_request_beyond_the_limit_is_refused_before_it_is_held(tmp_path: Path) -> None:
    with Engine(tmp_path, "--max-message", "8MiB") as engine:
        before = engine.peak()
        with engine.stub() as stub:
            assert code(stub.StartInstance, big(100 * MIB), metadata=GOOD) is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert engine.peak() - before < 30 * MIB
            assert code(stub.StartInstance, big(7 * MIB), metadata=GOOD) is grpc.StatusCode.OK
        # Compressed it is small; its uncompressed size counts
        with engine.stub(compression=grpc.Compression.Gzip) as stub:
            before = engine.peak()
            assert code(stub.StartInstance, big(100 * MIB), metadata=GOOD) is not grpc.StatusCode.OK
            assert engine.peak() - before < 60 * MIB
        engine.stop()


def test_the_default_limit_is_64_mib(engine: Engine) -> None:
    with engine.stub() as stub:
        assert code(stub.StartInstance, big(65 * MIB), metadata=GOOD) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_larger_limit_holds_for_the_engine_behind_the_port(tmp_path: Path) -> None:
    with Engine(tmp_path, "--max-message", "72MiB") as engine:
        with engine.stub() as stub:
            assert code(stub.StartInstance, big(65 * MIB), metadata=GOOD) is grpc.StatusCode.OK
        engine.stop()


def test_connections_are_bounded(tmp_path: Path) -> None:
    """Connections above the limit are closed at once, the others continue, and closed ones make room."""
    with Engine(tmp_path, "--max-connections", "20") as engine:
        host, _, port = engine.address.rpartition(":")
        with engine.stub() as stub:
            assert code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD) is grpc.StatusCode.OK
            with contextlib.ExitStack() as stack:
                strangers = [stack.enter_context(socket.create_connection((host, int(port)), 5)) for _ in range(100)]
                files = Path(f"/proc/{engine.pid}/fd")
                eventually_blocking(
                    lambda: sum("socket" in str(_target(each)) for each in files.iterdir()) <= 40, poll=0.05
                )
                assert (
                    code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD) is grpc.StatusCode.OK
                )
                assert len(strangers) == 100
        with engine.stub() as stub:
            assert (
                code(stub.GetInstance, pb.GetInstanceRequest(instanceId="a"), metadata=GOOD, wait_for_ready=True)
                is grpc.StatusCode.OK
            )
        engine.stop()


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
