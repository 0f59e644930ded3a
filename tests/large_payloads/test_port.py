"""Large payloads over the port of an engine: clients and workers that cannot reach its files, and broken transfers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from durabletask.client import OrchestrationStatus

from bridge.app.serve.engine_host import EngineHost
from bridge.config.model.engines import EmbeddedEngineConfig, SchedulerEngineConfig
from bridge.core.errors import (
    EngineDenied,
    EngineMisconfigured,
    LargePayloadLost,
    LargePayloadRefused,
    PayloadStoreUnavailable,
)
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.payloads.engine_payloads import EnginePayloadStore
from bridge.engines.remote.grpc_channel import CallHeaders
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.large_payloads.files import PayloadFiles, seal
from bridge.large_payloads.reference import Reference
from bridge.sqlite_engine.protocol import payloads as protocol
from bridge.sqlite_engine.protocol.server import Guard
from bridge.workflow import DataConverter
from tests.kit.waiting import TIMEOUT, eventually
from tests.large_payloads.test_embedded import NAMES, ROOT, completed, files_of, finished_flow, number_of, text_of

LARGE = 6 * 1024 * 1024
"""Bytes of a payload that fits into no message to a worker."""

STORE = {"store": {"type": "engine"}, "max": 16 * 1024 * 1024}


@asynccontextmanager
async def hosted(directory: Path, **payloads: Any) -> AsyncIterator[str]:
    """Embedded engine with a port. Yields its endpoint."""
    config = EmbeddedEngineConfig.model_validate({"type": "embedded", "listen": "127.0.0.1:0", **payloads})
    engine = EmbeddedEngine("host", config, directory, host=True)
    await engine.start()
    try:
        yield f"http://127.0.0.1:{engine._servers[-1].ports[0]}"
    finally:
        await engine.stop()


@asynccontextmanager
async def remote(
    endpoint: str, dispatch: str = "direct", *, works: bool = True, **config: Any
) -> AsyncIterator[SchedulerEngine]:
    """Remote engine with a worker."""
    engine = SchedulerEngine(
        "remote",
        SchedulerEngineConfig.model_validate(
            {"type": "scheduler", "endpoint": endpoint, "dispatch": dispatch, "payloads": STORE, **config}
        ),
    )
    await engine.start()
    worker = engine.worker(load(NAMES, ROOT), DataConverter())
    if works:
        worker.start()
    try:
        yield engine
    finally:
        if works:
            assert await stop_worker(worker, TIMEOUT)
        await engine.stop()


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_payloads_pass_over_the_port_and_go_with_their_instances(tmp_path: Path, dispatch: str) -> None:
    async with hosted(tmp_path) as endpoint, remote(endpoint, dispatch) as engine:
        await finished_flow(engine)
        state = await engine.client.get_orchestration_state("a")
        assert state is not None
        assert state.get_input() == text_of("i")
        history = await engine.client.get_protocol_history("a")
        assert max(event.ByteSize() for event in history) > len(text_of("i"))
        assert number_of(tmp_path) > 5
        await engine.client.purge_orchestration("a", recursive=True)
        await eventually(lambda: number_of(tmp_path) == 0, lambda: f"{number_of(tmp_path)} files")


@pytest.mark.parametrize("dispatch", ["direct", "protocol"])
async def test_a_payload_that_fits_into_no_message_passes(tmp_path: Path, dispatch: str) -> None:
    async with hosted(tmp_path) as endpoint, remote(endpoint, dispatch) as engine:
        await engine.client.schedule_new_orchestration("generations", input=[1, text_of("g", LARGE)], instance_id="g")
        assert await completed(engine, "g") == text_of("g", LARGE) + ".."


async def test_payloads_pass_over_the_port_of_an_engine_of_its_own(tmp_path: Path) -> None:
    host = EngineHost("127.0.0.1:0", tmp_path, Guard("secret"))
    await asyncio.to_thread(host.start)
    try:
        async with remote(f"http://{host.address}", token="secret", task_hub="hub-1") as engine:
            await finished_flow(engine)
            assert list((tmp_path / "hub-1.db.payloads").iterdir())
            assert not (tmp_path / "default.db.payloads").exists()
    finally:
        await asyncio.to_thread(host.stop)


async def test_a_remote_engine_without_the_setting_reads_payloads(tmp_path: Path) -> None:
    async with hosted(tmp_path) as endpoint, remote(endpoint) as engine:
        await engine.client.schedule_new_orchestration("flow", input=text_of("i"), instance_id="a")
        async with remote(endpoint, payloads=None, works=False) as reader:
            state = await reader.client.get_orchestration_state("a")
            assert state is not None
            assert state.get_input() == text_of("i")
            number = number_of(tmp_path)
            await reader.client.raise_orchestration_event("a", "more", data=text_of("e"))
            assert await completed(engine, "a")
            history = await reader.client.get_protocol_history("a")
            raised = next(event for event in history if event.HasField("eventRaised"))
            assert len(raised.eventRaised.input.value) > len(text_of("e"))
            assert number_of(tmp_path) > number


@pytest.mark.parametrize("limit", ["of the engine", "of the client"])
async def test_a_payload_over_the_limit_is_refused_with_the_name_of_the_limit(tmp_path: Path, limit: str) -> None:
    small = {"store": {"type": "files"}, "max": 1_000_000}
    store = STORE if limit == "of the engine" else STORE | {"max": 1_000_000}
    async with hosted(tmp_path, payloads=small) as endpoint, remote(endpoint, payloads=store) as engine:
        with pytest.raises(LargePayloadRefused, match=r"`payloads\.max` of the engine allows 1000000"):
            await engine.client.schedule_new_orchestration("flow", input=text_of("i", 1_000_000))
        await engine.client.schedule_new_orchestration("too_large", input=1_000_000, instance_id="t")
        state = await engine.client.wait_for_orchestration_completion("t", timeout=TIMEOUT)
        assert state is not None
        assert state.runtime_status is OrchestrationStatus.FAILED
        assert "payloads.max" in str(state.failure_details)
        assert number_of(tmp_path) == 0


async def test_a_missing_file_fails_the_workflow_that_needs_it(tmp_path: Path) -> None:
    async with hosted(tmp_path) as endpoint:
        async with remote(endpoint, works=False) as engine:
            await engine.client.schedule_new_orchestration("flow", input=text_of("i"), instance_id="a")
            files = files_of(tmp_path)
            (name,) = files.names()
            files.path_of(name).unlink()
            with pytest.raises(LargePayloadLost, match="the engine has no such file"):
                await engine.client.get_orchestration_state("a")
        async with remote(endpoint, payloads=None) as engine:
            state = await engine.client.wait_for_orchestration_completion("a", fetch_payloads=False, timeout=TIMEOUT)
            assert state is not None
            assert state.failure_details is not None or state.runtime_status is OrchestrationStatus.FAILED


async def test_an_engine_of_its_own_has_the_limit_of_its_option(tmp_path: Path) -> None:
    host = EngineHost("127.0.0.1:0", tmp_path, max_payload=1_000_000)
    await asyncio.to_thread(host.start)
    try:
        async with remote(f"http://{host.address}", works=False) as engine:
            with pytest.raises(LargePayloadRefused, match=r"allows 1000000 \(`--max-payload` of `bridge engine`\)"):
                await engine.client.schedule_new_orchestration("flow", input=text_of("i", 1_000_000))
    finally:
        await asyncio.to_thread(host.stop)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[EngineHost]:
    found = EngineHost("127.0.0.1:0", tmp_path)
    found.start()
    yield found
    found.stop()


@pytest.fixture
def files(tmp_path: Path) -> PayloadFiles:
    return PayloadFiles(tmp_path / "default.db.payloads")


def store_of(address: str) -> EnginePayloadStore:
    return EnginePayloadStore(lambda: grpc.insecure_channel(address), CallHeaders(), 1024)


def test_a_transfer_during_the_end_of_the_client_is_an_outage(host: EngineHost) -> None:
    def closed() -> grpc.Channel:
        channel = grpc.insecure_channel(host.address)
        channel.close()
        return channel

    store = EnginePayloadStore(closed, CallHeaders(), 1024)
    with pytest.raises(PayloadStoreUnavailable, match="the connection to the engine was closed"):
        store.upload(b'"' + b"x" * 2000 + b'"')


def test_an_altered_file_is_lost_and_not_read(host: EngineHost, files: PayloadFiles) -> None:
    with closing(store_of(host.address)) as store:
        token = store.upload(b'"' + b"x" * 1_000_000 + b'"')
        assert store.download(token) == b'"' + b"x" * 1_000_000 + b'"'
        path = files.path_of(Reference.parse(token).name)
        content = path.read_bytes()
        for altered in (content[:-1], content + b"x", content[:-1] + b"x", b""):
            path.write_bytes(altered)
            with pytest.raises(LargePayloadLost, match="altered"):
                store.download(token)


def upload(address: str, *parts: bytes) -> bytes:
    with grpc.insecure_channel(address) as channel:
        call = channel.stream_unary(f"/{protocol.SERVICE}/{protocol.UPLOAD}", None, None)
        found: bytes = call(iter(parts), timeout=TIMEOUT)
        return found


NAME = b"0" * 32


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ((), "INVALID_ARGUMENT"),
        ((b"",), "INVALID_ARGUMENT"),
        ((b"../../../engine.db 1", b"x"), "INVALID_ARGUMENT"),
        ((NAME + b" -1", b"x"), "INVALID_ARGUMENT"),
        ((NAME + b" 2", b"x"), "INVALID_ARGUMENT"),
        ((NAME + b" 2", b"xxx"), "INVALID_ARGUMENT"),
        ((NAME + b" 2", b"", b"xx"), "INVALID_ARGUMENT"),
        ((NAME + b" 999999999999999", b"x"), "RESOURCE_EXHAUSTED"),
    ],
)
def test_other_uploads_are_refused_and_leave_nothing(
    host: EngineHost, files: PayloadFiles, parts: tuple[bytes, ...], code: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        upload(host.address, *parts)
    assert refused.value.code().name == code, refused.value
    assert not [path for path in files.directory.rglob("*") if path.is_file()]


def test_an_upload_never_replaces_a_file(host: EngineHost, files: PayloadFiles) -> None:
    upload(host.address, NAME + b" 5", b"fir", b"st")
    with pytest.raises(grpc.RpcError) as refused:
        upload(host.address, NAME + b" 6", b"second")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert files.path_of(NAME.decode()).read_bytes() == b"first"
    assert list(files.names()) == [NAME.decode()]


def test_an_upload_without_an_end_leaves_nothing(
    host: EngineHost, files: PayloadFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "PART_SECONDS", 0.2)
    refusal_seen = threading.Event()

    def endless() -> Iterator[bytes]:
        yield NAME + b" 5"
        yield b"x"
        refusal_seen.wait(TIMEOUT)

    with grpc.insecure_channel(host.address) as channel:
        call = channel.stream_unary(f"/{protocol.SERVICE}/{protocol.UPLOAD}", None, None)
        with pytest.raises(grpc.RpcError) as refused:
            call(endless(), timeout=TIMEOUT)
        refusal_seen.set()
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "No part arrived" in str(refused.value)
    assert not [path for path in files.directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", [b"", b"../../engine.db", b"0" * 31, NAME + b"\n"])
def test_other_names_are_not_read(host: EngineHost, name: bytes) -> None:
    with grpc.insecure_channel(host.address) as channel:
        call = channel.unary_stream(f"/{protocol.SERVICE}/{protocol.DOWNLOAD}", None, None)
        with pytest.raises(grpc.RpcError) as refused:
            list(call(name, timeout=TIMEOUT))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_transfer_needs_the_token_of_the_engine(tmp_path: Path) -> None:
    host = EngineHost("127.0.0.1:0", tmp_path, Guard("secret"))
    host.start()
    try:
        with pytest.raises(grpc.RpcError) as refused:
            upload(host.address, NAME + b" 1", b"x")
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reference, _ = seal(b"x" * 5000)
        with (
            closing(store_of(host.address)) as store,
            pytest.raises(EngineDenied, match="token is missing or wrong"),
        ):
            store.download(str(reference))
    finally:
        host.stop()


def test_an_engine_that_is_away_is_an_outage_of_the_store(host: EngineHost) -> None:
    with closing(store_of(host.address)) as store:
        token = store.upload(b'"' + b"x" * 5000 + b'"')
        host.stop()
        for transfer in (lambda: store.download(token), lambda: store.upload(b"x" * 5000)):
            with pytest.raises(PayloadStoreUnavailable):
                transfer()


def test_another_engine_says_that_it_keeps_no_payloads() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            closing(store_of(f"127.0.0.1:{port}")) as store,
            pytest.raises(EngineMisconfigured, match="needs an engine of this version of the bridge"),
        ):
            store.upload(b"x" * 5000)
    finally:
        server.stop(None)
