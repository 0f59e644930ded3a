"""Behaviour of remote engines only: metadata, credentials, absence."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import azure.identity
import azure.identity.aio
import grpc
import pytest
from azure.core.credentials import AccessToken

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.core.commands import ScheduleOrchestration
from bridge.core.errors import EngineDenied, EngineMisconfigured, EngineOutage, EngineTimeout, EngineUnavailable
from bridge.engines.azure_access import create_credentials, credential_kind
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.scheduler import SchedulerEngine, parse_endpoint
from tests.engines.contract import harness
from tests.engines.sidecar import Sidecar
from tests.kit.waiting import TIMEOUT


@pytest.fixture
def sidecar(tmp_path: Path) -> Any:
    sidecar = Sidecar(tmp_path)
    sidecar.start()
    yield sidecar
    sidecar.close()


def config(**values: Any) -> SchedulerEngineConfig:
    return SchedulerEngineConfig(type="scheduler", **{"timeout": "5s", **values})


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://localhost:8080", ("localhost:8080", False)),
        ("https://x.westeurope.durabletask.io", ("x.westeurope.durabletask.io:443", True)),
        ("https://x.durabletask.io:8443/", ("x.durabletask.io:8443", True)),
        ("x.durabletask.io", ("x.durabletask.io:443", True)),
        ("x.durabletask.io:443", ("x.durabletask.io:443", True)),
        ("grpc://10.0.0.1:4001", ("10.0.0.1:4001", False)),
        ("http://[::1]:8080", ("[::1]:8080", False)),
    ],
)
def test_endpoints(endpoint: Any, expected: Any) -> None:
    assert parse_endpoint(endpoint) == expected


@pytest.mark.parametrize("endpoint", ["", "https://", "ftp://x", "http://u:p@x", "http://x/path", "http://x?y=1"])
def test_endpoints_that_are_none(endpoint: Any) -> None:
    with pytest.raises(ValueError, match="write an address like"):
        parse_endpoint(endpoint)


async def test_task_hub_and_token_reach_every_call(sidecar: Any) -> None:
    sidecar.gate.token = "s3cret"
    engine = SchedulerEngine("eu", config(endpoint=sidecar.endpoint, task_hub="orders", token="s3cret"))
    await engine.start()
    async with harness(engine) as running:
        await running.executor.execute(ScheduleOrchestration("chain", "a", 1))
        await running.finished("a")
        assert await engine.client.get_orchestration_history("a")
    await engine.stop()
    seen = sidecar.gate.seen
    assert {"StartInstance", "GetWorkItems", "CompleteActivityTask", "StreamInstanceHistory"} <= set(seen)
    for method, calls in seen.items():
        for metadata in calls:
            assert metadata["taskhub"] == "orders", method
            assert metadata["authorization"] == "Bearer s3cret", method
    assert "s3cret" not in engine.description


async def test_a_wrong_token_is_denied_and_the_right_one_recovers(sidecar: Any) -> None:
    sidecar.gate.token = "right"
    engine = SchedulerEngine("eu", config(endpoint=sidecar.endpoint, token="wrong"))
    await engine.start()
    with pytest.raises(EngineDenied, match="no valid token"):
        await engine.probe()
    with pytest.raises(EngineDenied):
        await CommandRunner(engine).execute(ScheduleOrchestration("echo", "a"))
    sidecar.gate.token = "wrong"
    await engine.probe()
    await engine.stop()


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "", EngineMisconfigured),
        (grpc.StatusCode.NOT_FOUND, "task hub 'default' not found", EngineMisconfigured),
        (grpc.StatusCode.PERMISSION_DENIED, "role missing", EngineDenied),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", EngineUnavailable),
    ],
)
async def test_refusals_are_outages(sidecar: Any, code: Any, details: Any, expected: Any) -> None:
    sidecar.gate.refusal = code, details
    engine = SchedulerEngine("eu", config(endpoint=sidecar.endpoint))
    await engine.start()
    for call in (engine.probe(), CommandRunner(engine).execute(ScheduleOrchestration("echo", "a"))):
        with pytest.raises(EngineOutage) as caught:
            await call
        assert type(caught.value) is expected
    await engine.stop()


async def test_away_and_back(sidecar: Any) -> None:
    engine = SchedulerEngine("eu", config(endpoint=sidecar.endpoint))
    await engine.start()
    executor = CommandRunner(engine)
    await executor.execute(ScheduleOrchestration("echo", "before"))
    sidecar.go_away()
    began = time.monotonic()
    with pytest.raises(EngineUnavailable):
        await executor.execute(ScheduleOrchestration("echo", "during"))
    with pytest.raises(EngineUnavailable):
        await engine.probe()
    assert time.monotonic() - began < 10
    sidecar.start()
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                await executor.execute(ScheduleOrchestration("echo", "after"))
                break
            except EngineUnavailable:
                await asyncio.sleep(0.05)
    for instance_id in ("before", "after"):
        assert await engine.client.get_orchestration_state(instance_id) is not None
    await engine.stop()


async def test_an_engine_that_never_answers_times_out() -> None:
    """A server accepts the connection and sends no bytes."""
    connections: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: connections.append(writer), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = SchedulerEngine("eu", config(endpoint=f"http://127.0.0.1:{port}", timeout="300ms"))
    await engine.start()
    began = time.monotonic()
    with pytest.raises(EngineOutage) as caught:
        await engine.probe()
    assert type(caught.value) in (EngineTimeout, EngineUnavailable)
    assert time.monotonic() - began < 5
    await engine.stop()
    for writer in connections:
        writer.close()
    server.close()


class SlowCredential:
    """Credential that waits for an identity service without an answer."""

    async def get_token(self, *scopes: str) -> AccessToken:
        await asyncio.Event().wait()
        raise AssertionError

    async def close(self) -> None:
        pass


class RefusingCredential(SlowCredential):
    async def get_token(self, *scopes: str) -> AccessToken:
        raise azure.identity.CredentialUnavailableError("no identity here")


@pytest.mark.parametrize(
    ("credential", "expected"), [(SlowCredential, EngineTimeout), (RefusingCredential, EngineDenied)]
)
async def test_tokens_that_do_not_come(
    sidecar: Any, monkeypatch: pytest.MonkeyPatch, credential: Any, expected: Any
) -> None:
    monkeypatch.setattr(azure.identity.aio, "DefaultAzureCredential", credential)
    engine = SchedulerEngine("eu", config(endpoint=sidecar.endpoint, credential="default", timeout="300ms"))
    await engine.start()
    executor = CommandRunner(engine)
    for call in (engine.probe(), executor.execute(ScheduleOrchestration("echo", "a"))):
        with pytest.raises(expected):
            await call
    await engine.stop()


@pytest.mark.parametrize(
    ("values", "secure", "expected"),
    [
        ({}, False, "none"),
        ({}, True, "default"),
        ({"token": "x"}, True, "none"),
        ({"credential": "cli"}, False, "cli"),
        ({"credential": "none"}, True, "none"),
    ],
)
def test_which_credential(values: Any, secure: Any, expected: Any) -> None:
    assert credential_kind(config(**values), secure) == expected


@pytest.mark.parametrize("name", ["default", "managed_identity", "environment", "cli"])
async def test_credentials_come_in_pairs_and_are_closed(name: Any) -> None:
    made = create_credentials(config(credential=name, client_id="0000"), True)
    assert made is not None
    assert type(made.asynchronous).__name__ == type(made.synchronous).__name__
    assert type(made.asynchronous).__module__.startswith("azure.identity.aio")
    await made.close()


async def test_a_credential_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(variable, raising=False)
    engine = SchedulerEngine("eu", config(endpoint="https://x.durabletask.io", credential="workload_identity"))
    with pytest.raises(EngineMisconfigured, match="workload_identity"):
        await engine.start()
