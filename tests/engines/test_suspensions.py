"""Turns of an engine that stores every suspension: a worker takes a repeated one once."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import pytest
from durabletask import task
from durabletask.internal import helpers
from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.config.model.engines import SchedulerEngineConfig
from bridge.engines.scheduler import SchedulerEngine
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import Workflows
from tests.engines.hostile import HostileEngine
from tests.kit.waiting import TIMEOUT, eventually

SUSPENDED, RESUMED = helpers.new_suspend_event(), helpers.new_resume_event()


def listen(ctx: task.OrchestrationContext, _: object) -> Generator[task.Task[str], str, str]:
    return (yield ctx.wait_for_external_event("go"))


def raised(data: str) -> pb.HistoryEvent:
    return helpers.new_event_raised_event("go", f'"{data}"')


@pytest.mark.parametrize("loop", [{}, {"sessions": 0}, {"dispatch": "protocol"}], ids=["sessions", "replays", "sdk"])
@pytest.mark.parametrize("earlier", [1, 3], ids=["in one turn", "in two turns"])
async def test_a_repeated_suspension_ends_with_one_resumption(loop: dict[str, object], earlier: int) -> None:
    start = [helpers.new_orchestrator_started_event(), helpers.new_execution_started_event("listen", "i", None)]
    given = [*start, SUSPENDED, SUSPENDED, raised("a"), SUSPENDED, RESUMED]
    turn = pb.OrchestratorRequest(instanceId="i", pastEvents=given[:earlier], newEvents=given[earlier:])
    turns = pb.WorkItem(orchestratorRequest=turn, completionToken="t").SerializeToString()
    ended = threading.Event()
    found: list[pb.OrchestratorResponse] = []

    def work(_: bytes, __: int) -> Iterator[bytes]:
        yield turns
        ended.wait(TIMEOUT)

    def complete(request: bytes, _: int) -> bytes:
        found.append(pb.OrchestratorResponse.FromString(request))
        return b""

    with HostileEngine() as hostile:
        hostile.answers |= {"GetWorkItems": work, "CompleteOrchestratorTask": complete}
        settings = {"type": "scheduler", "endpoint": hostile.endpoint, **loop}
        engine = SchedulerEngine("x", SchedulerEngineConfig.model_validate(settings))
        await engine.start()
        worker = engine.worker(Workflows({"listen": listen}, {}))
        worker.start()
        try:
            await eventually(lambda: found, "the turn ends")
        finally:
            ended.set()
            assert await stop_worker(worker, TIMEOUT)
            await engine.stop()
    assert [action.completeOrchestration.result.value for action in found[0].actions] == ['"a"']
