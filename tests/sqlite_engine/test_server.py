"""Engine for other processes, and as a replacement for the scheduler's emulator."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from durabletask import task
from durabletask.azuremanaged.client import DurableTaskSchedulerClient
from durabletask.azuremanaged.worker import DurableTaskSchedulerWorker
from durabletask.client import OrchestrationStatus, TaskHubGrpcClient
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.internal.orchestrator_service_pb2_grpc import TaskHubSidecarServiceStub

from bridge.core.errors import EngineMisconfigured, EngineUnavailable
from bridge.sqlite_engine.database import Database
from bridge.sqlite_engine.model.reply import Rejection
from bridge.sqlite_engine.protocol.hubs import HubsService, TaskHubs
from bridge.sqlite_engine.protocol.server import Guard, Server
from bridge.sqlite_engine.protocol.service import AioSidecarService
from tests.kit.protocol_client import call
from tests.kit.waiting import TIMEOUT


def quiet() -> logging.Logger:
    logger = logging.getLogger("tests.sqlite_engine")
    logger.setLevel(logging.CRITICAL)
    return logger


@pytest.fixture
def hubs(tmp_path: Path) -> Iterator[TaskHubs]:
    found = TaskHubs(tmp_path)
    found.start()
    yield found
    found.stop()


def test_scheduler_client_and_worker_work_and_hubs_are_kept_apart(hubs: TaskHubs, tmp_path: Path) -> None:
    server = Server(HubsService(hubs), ["127.0.0.1:0"])
    server.start()
    options: dict[str, Any] = {
        "host_address": f"http://127.0.0.1:{server.ports[0]}",
        "secure_channel": False,
        "token_credential": None,
        "logger": quiet(),
    }

    def double(ctx: task.ActivityContext, value: int) -> int:
        return value * 2

    def work(ctx: task.OrchestrationContext, value: int) -> Any:
        return (yield ctx.call_activity(double, input=value))

    with DurableTaskSchedulerWorker(taskhub="blue", **options) as worker:
        worker.add_orchestrator(work)
        worker.add_activity(double)
        worker.start()
        blue = DurableTaskSchedulerClient(taskhub="blue", **options)
        green = DurableTaskSchedulerClient(taskhub="green", **options)
        done = blue.schedule_new_orchestration(work, input=21)
        waits = green.schedule_new_orchestration(work, input=1, instance_id=done)
        found = blue.wait_for_orchestration_completion(done, timeout=TIMEOUT)
        assert found is not None
        assert found.serialized_output == "42"
        other = green.get_orchestration_state(waits)
        assert other is not None
        assert other.runtime_status == OrchestrationStatus.PENDING
        wrong = DurableTaskSchedulerClient(taskhub="../blue", **options)
        with pytest.raises(grpc.RpcError) as refused:
            wrong.schedule_new_orchestration(work)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(TimeoutError):
            green.wait_for_orchestration_completion(waits, timeout=1)
        for client in (blue, green, wrong):
            client.close()
    server.stop()
    server.stop()
    assert {path.name for path in tmp_path.glob("*.db")} == {"default.db", "blue.db", "green.db"}


def test_hubs_made_by_their_name_are_bounded(tmp_path: Path) -> None:
    """Existing hubs are always opened and stay usable."""
    for number in range(3):
        found = TaskHubs(tmp_path, max_hubs=4 + number)
        found.start()
        assert found.get("default") is found.get("default")
        for name in ("one", "two", "three"):
            found.get(name)
        for each in range(number):
            found.get(f"more-{each}")
        with pytest.raises(Rejection, match="no more than") as refused:
            found.get("one-too-many")
        assert refused.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        found.stop()
    fewer = TaskHubs(tmp_path, max_hubs=1)
    fewer.start()
    fewer.get("three")
    with pytest.raises(Rejection):
        fewer.get("new")
    fewer.stop()
    assert len(list(tmp_path.glob("*.db"))) == 6


def test_a_socket(database: Database, tmp_path: Path) -> None:
    server = Server(AioSidecarService(database), [f"unix:{tmp_path}/s"])
    server.start()
    client = TaskHubGrpcClient(host_address=f"unix:{tmp_path}/s", logger=quiet())
    instance_id = client.schedule_new_orchestration("work")
    assert client.get_orchestration_state(instance_id) is not None
    client.close()
    server.stop()


@pytest.mark.parametrize("method", ["WaitForInstanceStart", "WaitForInstanceCompletion"])
async def test_waits_that_reach_their_deadline_log_nothing(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    server = Server(AioSidecarService(database), [f"unix:{tmp_path}/s"])
    server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            wait = getattr(TaskHubSidecarServiceStub(channel), method)
            deadlines = [0.001 * number for number in range(1, 200)]
            calls = [wait(pb.GetInstanceRequest(instanceId=f"i-{each}"), timeout=each) for each in deadlines]
            codes = [await each.code() for each in calls]
    finally:
        server.stop()
    assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    call(database, "GetInstance", pb.GetInstanceRequest(instanceId="after all that was asked for so far"))
    assert len(database.hub.waiters) == 0


def test_a_token_is_needed_and_checked(database: Database) -> None:
    with pytest.raises(EngineMisconfigured, match="token"):
        Server(AioSidecarService(database), ["0.0.0.0:0"])
    server = Server(AioSidecarService(database), ["127.0.0.1:0"], Guard(token="secret"))
    server.start()
    address = f"127.0.0.1:{server.ports[0]}"
    for sent, welcome in (("Bearer secret", True), ("Bearer wrong", False), (None, False)):
        metadata = None if sent is None else [("authorization", sent)]
        client = TaskHubGrpcClient(host_address=address, metadata=metadata, logger=quiet())
        if welcome:
            client.schedule_new_orchestration("work")
        else:
            with pytest.raises(grpc.RpcError) as refused:
                client.schedule_new_orchestration("work")
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            with pytest.raises(grpc.RpcError):
                client.get_orchestration_history("x")
        client.close()
    server.stop()


def test_an_address_that_is_taken(database: Database) -> None:
    server = Server(AioSidecarService(database), ["127.0.0.1:0"])
    server.start()
    with pytest.raises(EngineUnavailable, match="cannot be listened on"):
        Server(AioSidecarService(database), [f"127.0.0.1:{server.ports[0]}"]).start()
    server.stop()
