"""Unregistered names in workflows: the instance fails at once, with a metric and a log line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationStatus
from structlog.testing import capture_logs

from bridge.engines.recording import record
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import TIMEOUT

FLOWS = """
from datetime import timedelta

from durabletask import entities, task

from bridge.workflow import Command, Saga, Step, publish

RETRY = task.RetryPolicy(first_retry_interval=timedelta(seconds=30), max_number_of_attempts=10)


def book(ctx: task.ActivityContext, _):
    return "booked"


def cancel(ctx: task.ActivityContext, _):
    return "cancelled"


def publishes(ctx: task.OrchestrationContext, _):
    yield publish(ctx, "decisionz", {"card": "4111"}, type="decided")


def publishes_slowly(ctx: task.OrchestrationContext, _):
    yield publish(ctx, "decisionz", type="decided", retry_policy=RETRY)


def catches(ctx: task.OrchestrationContext, _):
    try:
        yield publish(ctx, "decisionz", type="decided")
    except task.TaskFailedError:
        return "caught"


def commands(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "trip")

    def body():
        yield from saga.step(Step("flight", book, compensation=cancel, keyed=False))
        yield from saga.step(Step("pay", Command("decisionz", "pay"), retry=RETRY))

    return (yield from saga.run(body()))


def committed(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "trip")

    def body():
        saga.point_of_no_return()
        yield from saga.step(Step("pay", Command("decisionz", "pay"), retry=RETRY))

    return (yield from saga.run(body()))


def charges(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_activity("chargee"))


def steps(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "trip")

    def body():
        yield from saga.step(Step("flight", book, compensation=cancel, keyed=False))
        yield from saga.step(Step("pay", "chargee", retry=RETRY))

    return (yield from saga.run(body()))


def parent(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_sub_orchestrator("chield"))


def asks(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_entity(entities.EntityInstanceId("countre", "1"), "add", 1))


def elsewhere(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_activity("external_activity"))


def later(ctx: task.OrchestrationContext, _):
    work = ctx.call_activity("external_activity")
    child = ctx.call_sub_orchestrator("external_flow")
    yield task.when_all([work, child])
"""
CONFIG = """
workflows: {modules: [NAME], external: [external_activity, external_flow]}
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
targets: {decisions: {broker: local, topic: decisions}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
"""


async def finished(it: DaemonFixture, orchestration: str) -> Any:
    await it.client.schedule_new_orchestration(orchestration, instance_id=f"{orchestration}-1")
    return await it.client.wait_for_orchestration_completion(f"{orchestration}-1", timeout=int(TIMEOUT))


async def metric(it: DaemonFixture, line: str) -> bool:
    return line in (await it.daemon.watch.scrape()).decode().splitlines()


@pytest.mark.parametrize("engine", ENGINES)
async def test_an_unknown_target_fails_at_once(tmp_path: Path, engine: str) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS, engine) as it:
            for number, orchestration in enumerate(("publishes", "publishes_slowly", "committed"), 1):
                state = await finished(it, orchestration)
                assert state.runtime_status is OrchestrationStatus.FAILED
                assert (
                    "target 'decisionz' is not configured; did you mean 'decisions'?" in state.failure_details.message
                )
                assert await metric(it, f'bridge_publish_failures_total{{target="(unknown)"}} {number}.0')
                history = (await record(it.client, f"{orchestration}-1")).events
                failures = [each.taskFailed.failureDetails for each in history if each.HasField("taskFailed")]
                assert [each.isNonRetriable for each in failures] == [True]  # for SDKs that honour it
            assert (await finished(it, "catches")).serialized_output == '"caught"'
            compensated = await finished(it, "commands")
            assert '"compensated"' in compensated.serialized_output
            assert await metric(it, 'bridge_unknown_names_total{engine="default",kind="target"} 5.0')
    received = [each for each in logs if each.get("action") == "unknown_name"]
    assert [(each["log_level"], each["orchestration"], each["instance"]) for each in received] == [
        ("error", name, f"{name}-1") for name in ("publishes", "publishes_slowly", "committed", "catches", "commands")
    ]
    assert all("decisionz" in each["event"] and "decisions" in each["event"] for each in received)
    assert "4111" not in str(logs)


async def test_unknown_calls_fail_at_once_in_the_daemon_s_own_engine(tmp_path: Path) -> None:
    kinds = {"charges": ("activity", "chargee"), "parent": ("orchestration", "chield"), "asks": ("entity", "countre")}
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS) as it:
            for orchestration, (kind, name) in kinds.items():
                state = await finished(it, orchestration)
                assert state.runtime_status is OrchestrationStatus.FAILED
                assert f"'{name}' is not registered" in state.failure_details.message
                assert await metric(it, f'bridge_unknown_names_total{{engine="default",kind="{kind}"}} 1.0')
            compensated = await finished(it, "steps")
            assert '"compensated"' in compensated.serialized_output
    received = [(each["orchestration"], each["kind"]) for each in logs if each.get("action") == "unknown_name"]
    assert received == [*((one, kind) for one, (kind, _) in kinds.items()), ("steps", "activity")]


async def test_external_names_wait_for_their_worker(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        await it.client.schedule_new_orchestration("later", instance_id="later-1")
        await finished(it, "charges")  # the turn of an instance that started later has ended
        state = await it.client.get_orchestration_state("later-1")
        assert state.runtime_status in (OrchestrationStatus.PENDING, OrchestrationStatus.RUNNING)
        assert not await metric(it, 'bridge_unknown_names_total{engine="default",kind="orchestration"} 1.0')


async def test_a_scheduler_s_unknown_call_is_told(tmp_path: Path) -> None:
    """Only the scheduler knows its other workers: the call waits, and the log names it."""
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS, "behind a port") as it:
            await it.client.schedule_new_orchestration("charges", instance_id="charges-1")
            line = 'bridge_unknown_names_total{engine="default",kind="activity"} 1.0'
            await it.until(lambda: metric(it, line), "the unknown name is counted")
    assert [each["instance"] for each in logs if each.get("action") == "unknown_name"] == ["charges-1"]
