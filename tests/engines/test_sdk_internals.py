"""The SDK has every private part that the engines use, and the engines work without each of them."""

from __future__ import annotations

import importlib
import inspect
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationStatus
from durabletask.entities import EntityInstanceId
from durabletask.entities.entity_metadata import EntityMetadata
from durabletask.internal import orchestrator_service_pb2 as pb
from durabletask.serialization import JsonDataConverter
from durabletask.worker import TaskHubGrpcWorker

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.errors import EngineMisconfigured
from bridge.engines import sdk_internals
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.worker.contained_worker import ContainedWorker
from bridge.engines.worker.containment import ContainedConverter
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.kit.waiting import TIMEOUT

MODULES = {
    "durabletask.internal.helpers": ("new_failure_details", "convert_to_entity_batch_request"),
    "durabletask.internal.json_encode_output_exception": ("JsonEncodeOutputException",),
    "durabletask.internal.grpc_interceptor": ("DefaultClientInterceptorImpl", "DefaultAsyncClientInterceptorImpl"),
    "durabletask.azuremanaged.internal.durabletask_grpc_interceptor": (
        "DTSDefaultClientInterceptorImpl",
        "DTSAsyncDefaultClientInterceptorImpl",
    ),
}


@pytest.mark.parametrize("module", MODULES)
def test_the_modules_have_these_members(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in MODULES[module] if not hasattr(found, name)] == []


@pytest.mark.parametrize("name", ["_execute_orchestrator", "_execute_activity", "_execute_entity_batch"])
def test_the_worker_calls_what_is_overridden(name: str) -> None:
    """`OpenWorker` overrides these methods, which the SDK's worker itself names and calls."""
    parameters = list(inspect.signature(getattr(TaskHubGrpcWorker, name)).parameters)
    assert parameters == ["self", "req", "stub", "completionToken"]
    assert f"self.{name}" in inspect.getsource(TaskHubGrpcWorker)
    assert name in vars(sdk_internals.OpenWorker)


def test_the_worker_has_these_members() -> None:
    worker = TaskHubGrpcWorker()
    manager = worker._async_worker_manager
    for name in ("_data_converter", "_is_running", "_runLoop", "_concurrency_options", "_logger"):
        assert hasattr(worker, name), name
    for kind in ("orchestrator", "activity", "entity_batch"):
        assert callable(getattr(worker, f"_cancel_{kind}"))
    for name in ("submit_orchestration", "submit_activity", "submit_entity_batch"):
        assert list(inspect.signature(getattr(manager, name)).parameters)[:2] == ["func", "cancellation_func"]
    assert worker._concurrency_options.maximum_thread_pool_workers > 0
    assert manager.thread_pool._work_queue.qsize() == 0


def test_the_client_has_a_stub() -> None:
    assert callable(AsyncTaskHubGrpcClient._get_stub)


def test_without_a_stub_the_request_is_refused() -> None:
    with pytest.raises(EngineMisconfigured, match="installed durabletask cannot make this request"):
        sdk_internals.stub_of(object())  # type: ignore[arg-type]  # a client of another version


def test_a_client_without_the_member_may_store_payloads() -> None:
    client = AsyncTaskHubGrpcClient()
    assert hasattr(client, "_payload_store")
    assert not sdk_internals.stores_payloads(client)
    del client._payload_store
    assert sdk_internals.stores_payloads(client)


def test_the_holder_of_a_lock_is_known() -> None:
    described = pb.EntityMetadata(instanceId="@counter@a")
    described.lockedBy.value = "order-1"
    metadata = EntityMetadata.from_entity_metadata(described, False, JsonDataConverter())
    assert metadata.id == EntityInstanceId("counter", "a")
    assert sdk_internals.lock_holder(metadata) == "order-1"
    del metadata._locked_by
    assert sdk_internals.lock_holder(metadata) is None


@pytest.mark.parametrize("asynchronous", [True, False])
def test_interceptors_are_refused_without_the_sdk_s(asynchronous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sdk_internals.header_interceptor([("authorization", "x")], asynchronous=asynchronous)
    assert sdk_internals.task_hub_interceptor(None, "hub", asynchronous=asynchronous)
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineMisconfigured, match="cannot send headers"):
        sdk_internals.header_interceptor([("authorization", "x")], asynchronous=asynchronous)
    with pytest.raises(EngineMisconfigured, match="cannot name a task hub"):
        sdk_internals.task_hub_interceptor(None, "hub", asynchronous=asynchronous)


def test_failures_without_the_sdk_s_function() -> None:
    try:
        raise ValueError("wrong")
    except ValueError as error:
        theirs, ours = sdk_internals.new_failure_details(error), sdk_internals._plain_failure(error)
    assert ours.errorType in theirs.errorType
    assert ours.errorMessage == theirs.errorMessage == "wrong"
    assert "ValueError: wrong" in ours.stackTrace.value


def test_a_request_of_the_newer_form_becomes_a_batch() -> None:
    request = pb.EntityRequest(instanceId="@counter@a", executionId="1")
    batch, infos = sdk_internals.batch_of(request)
    assert (batch.instanceId, infos) == ("@counter@a", [])
    assert sdk_internals.batch_of(batch) == (batch, [])


def test_a_worker_without_the_members() -> None:
    """Only what depends on a missing member is left out."""
    worker = ContainedWorker()
    assert isinstance(worker.converter, ContainedConverter)
    for name in ("_async_worker_manager", "_data_converter", "_runLoop", "_is_running", "_logger"):
        delattr(worker, name)
    assert worker.converter.serialize({"a": 1}) == '{"a": 1}'
    assert (worker.queued_items, worker.is_running, worker.has_lost_its_loop) == ((0, 0), False, False)
    assert worker.sdk_logger is None
    worker.intercept_arrivals(worker._arrived)


async def test_a_worker_of_an_sdk_that_calls_other_methods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User code runs without being contained."""
    for name in ("_execute_orchestrator", "_execute_activity", "_execute_entity_batch"):
        monkeypatch.delattr(sdk_internals.OpenWorker, name)
    threads: list[str] = []

    def note(ctx: Any, given: Any) -> str:
        threads.append(threading.current_thread().name)
        return "noted"

    def order(ctx: Any, given: Any) -> Any:
        return (yield ctx.call_activity("note", input=given))

    config = EmbeddedEngineConfig(type="embedded", dispatch="protocol")
    engine = EmbeddedEngine("default", config, tmp_path, host=True)
    await engine.start()
    worker = engine.worker(Workflows({"order": order}, {"note": note}))
    worker.start()
    try:
        await engine.client.schedule_new_orchestration("order", instance_id="a")
        state = await engine.client.wait_for_orchestration_completion("a", timeout=TIMEOUT)
    finally:
        await stop_worker(worker, 30)
        await engine.stop()
    assert state is not None
    assert (state.runtime_status, state.serialized_output) == (OrchestrationStatus.COMPLETED, '"noted"')
    assert threads
