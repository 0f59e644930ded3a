"""Any bytes at the engine's port: answered or refused, and the next caller is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import grpc
import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge.sqlite_engine.protocol.service import UNARY
from tests.engines.test_port import GOOD, Engine, code
from tests.kit.waiting import TIMEOUT

SERVICE = pb.DESCRIPTOR.services_by_name["TaskHubSidecarService"].full_name
STREAMS = ("GetWorkItems", "StreamInstanceHistory")
CALLS = st.tuples(st.sampled_from((*UNARY, *STREAMS)), st.binary(max_size=100))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(tmp_path_factory.mktemp("engine")) as engine:
        yield engine
        engine.stop()


def attempt(engine: Engine, channel: grpc.Channel, method: str, body: bytes) -> None:
    path = f"/{SERVICE}/{method}"
    streams = method in STREAMS
    # A call with the token may wait for an instance or for work, a call without it is refused at once.
    for metadata, timeout in (((), TIMEOUT), (GOOD, 0.1 if streams else 1)):
        try:
            if streams:
                for _ in channel.unary_stream(path)(body, timeout=timeout, metadata=metadata):
                    pass
            else:
                channel.unary_unary(path)(body, timeout=timeout, metadata=metadata)
            found = grpc.StatusCode.OK
        except grpc.RpcError as error:
            found = error.code()
        assert (found is grpc.StatusCode.UNAUTHENTICATED) == (not metadata), (method, found)
    assert engine.runs


def run(engine: Engine, examples: int) -> None:
    @settings(deadline=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(CALLS)
    def calls(request: tuple[str, bytes]) -> None:
        attempt(engine, channel, *request)

    @settings(deadline=None, max_examples=examples // 2, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200), st.booleans())
    def frames(sent: bytes, http2: bool) -> None:
        host, _, port = engine.address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(PREFACE + sent if http2 else sent)

    with grpc.insecure_channel(engine.address) as channel:
        calls()
    frames()
    with engine.stub() as stub:
        assert code(stub.Hello, pb.google_dot_protobuf_dot_empty__pb2.Empty(), metadata=GOOD) is grpc.StatusCode.OK  # type: ignore[attr-defined]  # of the class behind the interface


def test_any_bytes(engine: Engine) -> None:
    run(engine, 60)


@pytest.mark.prove
def test_any_bytes_for_long(engine: Engine) -> None:
    run(engine, 3_000)
