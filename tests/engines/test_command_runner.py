"""Calls with an unknown outcome, on a real client and engine; only the responses are disturbed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import durabletask.internal.orchestrator_service_pb2 as pb
import grpc
import pytest
from durabletask.client import AsyncTaskHubGrpcClient, OrchestrationStatus

from bridge.core.commands import OnExisting, RaiseEvent, ScheduleOrchestration, SignalEntity, StartOrRaise, Terminate
from bridge.core.errors import (
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InstanceAlreadyExists,
    InstanceFinished,
    InstanceNotFound,
)
from bridge.core.origin import MessageOrigin
from bridge.engines.client import EngineClient
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.embedded.inprocess import AioChannel
from bridge.engines.embedded.inprocess.call import CallContext
from bridge.sqlite_engine.protocol.service import SidecarService


class Disturbed:
    """Proxy that changes the answers of the calls in `faults`: (code, and whether the call took effect)."""

    def __init__(self, backend: SidecarService) -> None:
        self.backend = backend
        self.faults: dict[str, tuple[grpc.StatusCode, bool]] = {}
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(request: Any, context: Any) -> Any:
            method = getattr(self.backend, name)
            self.calls.append((name, request))
            code, effect = self.faults.get(name, (None, True))
            response = method(request, context) if effect else None
            if code is not None:
                context.abort(code, "disturbed")
            return response

        return call


@pytest.fixture
def servicer(service: Any) -> Any:
    return Disturbed(service)


@pytest.fixture
def executor(servicer: Any) -> Any:
    client = AsyncTaskHubGrpcClient(channel=AioChannel(servicer, timeout=5.0))
    return CommandRunner(SimpleNamespace(client=EngineClient(client), confirms_event_delivery=True))


def finish(servicer: Disturbed, instance_id: str) -> None:
    servicer.backend.TerminateInstance(pb.TerminateRequest(instanceId=instance_id), CallContext((), None))  # type: ignore[no-untyped-call]  # it comes without types


FIRST, SECOND = MessageOrigin("m-1", "r"), MessageOrigin("m-2", "r")
START = ScheduleOrchestration("echo", "a", 1)
NO_ANSWER = grpc.StatusCode.DEADLINE_EXCEEDED
QUESTIONS = [grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS]


async def test_start_without_answer_that_took_effect_is_done(servicer: Any, executor: Any) -> None:
    servicer.faults["StartInstance"] = NO_ANSWER, True
    await executor.execute(START, FIRST)
    request = pb.GetInstanceRequest(instanceId="a")
    assert servicer.backend.GetInstance(request, CallContext((), None)).exists


async def test_start_without_answer_that_did_nothing_is_a_timeout(servicer: Any, executor: Any) -> None:
    servicer.faults["StartInstance"] = NO_ANSWER, False
    with pytest.raises(EngineTimeout):
        await executor.execute(START)


@pytest.mark.parametrize("fault", [NO_ANSWER, *QUESTIONS])
async def test_start_without_answer_is_told_from_one_of_another_message(
    servicer: Any, executor: Any, fault: Any
) -> None:
    await executor.execute(START, FIRST)
    servicer.faults["StartInstance"] = fault, False
    await executor.execute(START, FIRST)  # the instance exists, by this call or an earlier one: success
    for other in (SECOND, replace(FIRST, route="other"), replace(FIRST, part=1)):
        with pytest.raises(InstanceAlreadyExists):
            await executor.execute(START, other)


@pytest.mark.parametrize("code", QUESTIONS)
async def test_untyped_answer_about_nothing_is_tried_a_bounded_number_of_times(
    servicer: Any, executor: Any, code: Any
) -> None:
    servicer.faults["StartInstance"] = code, False
    with pytest.raises(EngineError) as caught:
        await executor.execute(START)
    assert type(caught.value) is EngineError


@pytest.mark.parametrize("command", [START, RaiseEvent("a", "go"), SignalEntity("counter", "k", "add")])
async def test_an_engine_that_answers_nothing_useful_is_an_outage(servicer: Any, executor: Any, command: Any) -> None:
    for method in ("StartInstance", "RaiseEvent", "SignalEntity", "GetInstance"):
        servicer.faults[method] = grpc.StatusCode.INTERNAL, False
    with pytest.raises(EngineUnavailable, match="is not valid"):
        await executor.execute(command)


async def test_an_outage_is_not_asked_about(servicer: Any, executor: Any) -> None:
    servicer.faults["StartInstance"] = grpc.StatusCode.UNAVAILABLE, False
    with pytest.raises(EngineUnavailable):
        await executor.execute(START)
    assert [name for name, _request in servicer.calls] == ["StartInstance"]


async def test_a_reuse_policy_is_always_sent(servicer: Any, executor: Any) -> None:
    await executor.execute(START)
    await executor.execute(StartOrRaise("echo", "b", "go"))
    await executor.execute(ScheduleOrchestration("echo", "c"))
    finish(servicer, "c")
    await executor.execute(ScheduleOrchestration("echo", "c", on_existing=OnExisting.RESTART))
    requests = [request for name, request in servicer.calls if name == "StartInstance"]
    assert all(request.HasField("orchestrationIdReusePolicy") for request in requests)
    statuses = [set(request.orchestrationIdReusePolicy.replaceableStatus) for request in requests]
    assert statuses == [set(), set(), set(), set(), {1, 3, 4, 5}]
    assert {pb.OrchestrationStatus.Name(value) for value in statuses[4]} == {
        "ORCHESTRATION_STATUS_COMPLETED",
        "ORCHESTRATION_STATUS_FAILED",
        "ORCHESTRATION_STATUS_CANCELED",
        "ORCHESTRATION_STATUS_TERMINATED",
    }


async def test_raise_that_the_engine_took_for_a_missing_instance(servicer: Any, executor: Any) -> None:
    """Some engines store events for ids they do not know."""
    executor._engine.confirms_event_delivery = False
    servicer.backend.RaiseEvent = lambda request, context: pb.RaiseEventResponse()
    with pytest.raises(InstanceNotFound):
        await executor.execute(RaiseEvent("missing", "go"))


async def test_raise_that_raced_with_the_end_is_not_lost_silently(servicer: Any, executor: Any) -> None:
    executor._engine.confirms_event_delivery = False
    await executor.execute(START)
    backend_raise = servicer.backend.RaiseEvent

    def take_and_finish(request: Any, context: Any) -> Any:
        response = backend_raise(request, context)
        finish(servicer, "a")
        return response

    servicer.backend.RaiseEvent = take_and_finish
    with pytest.raises(InstanceFinished):
        await executor.execute(RaiseEvent("a", "go", 1))


async def test_raise_without_answer_is_repeated(servicer: Any, executor: Any) -> None:
    await executor.execute(START)
    servicer.faults["RaiseEvent"] = NO_ANSWER, True
    with pytest.raises(EngineTimeout):
        await executor.execute(RaiseEvent("a", "go", 1))


async def test_terminate_is_not_sent_to_a_finished_instance(servicer: Any, executor: Any) -> None:
    await executor.execute(START)
    finish(servicer, "a")
    with pytest.raises(InstanceFinished):
        await executor.execute(Terminate("a"))
    assert "TerminateInstance" not in [name for name, _request in servicer.calls]


async def test_start_or_raise_of_a_start_without_answer_does_not_raise_too(servicer: Any, executor: Any) -> None:
    servicer.faults["StartInstance"] = NO_ANSWER, True
    await executor.execute(StartOrRaise("twice", "a", "item", data=1), FIRST)
    assert "RaiseEvent" not in [name for name, _request in servicer.calls]


async def test_errors_never_hold_payload(servicer: Any, executor: Any) -> None:
    servicer.faults["StartInstance"] = grpc.StatusCode.UNKNOWN, False
    with pytest.raises(EngineError) as caught:
        await executor.execute(ScheduleOrchestration("echo", "a", {"card": "4111"}))
    assert "4111" not in str(caught.value)
    assert OrchestrationStatus.PENDING.name not in str(caught.value)
