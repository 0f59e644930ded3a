"""Failed instances and compensated sagas: one log line each, at a bounded rate, without payload."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from durabletask.internal import orchestrator_service_pb2 as pb
from structlog.testing import capture_logs

from bridge.app.serve.failures import FailureLog
from bridge.engines.worker.finishes import Finishes, InstanceFailure, failure_of
from bridge.sqlite_engine.model.instance import COMPLETED, FAILED, Finish
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

FLOWS = """
from datetime import timedelta; from durabletask import task

from bridge.workflow import Saga, SagaAborted, Step


def charge(ctx: task.ActivityContext, order):
    return lookup(order)


def lookup(order):
    return {}[order["card"]]


def keep(ctx: task.ActivityContext, value):
    return value


def breaks(ctx: task.ActivityContext, value):
    raise ValueError(f"no {value}")


def works(ctx: task.OrchestrationContext, order):
    return order


def order(ctx: task.OrchestrationContext, order):
    return (yield ctx.call_activity(charge, input=order))


def broken(ctx: task.OrchestrationContext, order):
    return order["missing"]


def parent(ctx: task.OrchestrationContext, order):
    return (yield ctx.call_sub_orchestrator("order", input=order))


def trip(ctx: task.OrchestrationContext, order):
    saga = Saga(ctx, "journey")
    once = task.RetryPolicy(first_retry_interval=timedelta(milliseconds=1), max_number_of_attempts=1)

    def body():
        yield from saga.step(Step("stock", keep, 1, compensation="breaks" if order.get("stuck") else keep,
                                  compensation_retry=once))
        if order.get("late"):
            saga.point_of_no_return()
        if order.get("refused"):
            raise SagaAborted(order["card"], order["card"])
        yield from saga.step(Step("pay", charge, order))


    return (yield from saga.run(body()))
"""
CONFIG = """
sources: {orders: {broker: local, topics: [orders], no_match: ignore}}
routes: [{name: nothing, from: orders, ignore: {reason: a test}}]
"""
ORDER = {"card": "4111-1111-1111"}


async def finish(it: DaemonFixture, orchestration: str, **more: Any) -> None:
    id_ = f"{orchestration}-1"
    await it.client.schedule_new_orchestration(orchestration, instance_id=id_, input=ORDER | more)
    await it.client.wait_for_orchestration_completion(id_, timeout=int(TIMEOUT))


@pytest.mark.parametrize("engine", ENGINES)
async def test_each_failure_is_logged_once_without_payload(tmp_path: Path, engine: str) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS, engine) as it:
            for name in ("works", "order", "broken", "trip", "parent"):
                await finish(it, name)
            finishes = it.daemon.finishes["default"]
            await it.until(lambda: finishes.finished.total() >= 6, "all ends")
            assert dict(finishes.finished) == {
                ("works", "completed"): 1, ("order", "failed"): 2, ("broken", "failed"): 1, ("trip", "completed"): 1,
                ("parent", "failed"): 1,
            }  # fmt: skip
            assert dict(finishes.sagas) == {("journey", "compensated"): 1}
            assert sum(sum(each.counts) for each in finishes.seconds.values()) == 6
    lines = [each for each in logs if each.get("action") in ("failed", "compensated")]
    found = [(each["log_level"], each["action"], each["instance"], each["error"]) for each in lines]
    assert found[:3] == [
        ("error", "failed", "order-1", "KeyError"),
        ("error", "failed", "broken-1", "KeyError"),
        ("warning", "compensated", "trip-1", "KeyError"),
    ]
    assert [(each["orchestration"], each.get("parent")) for each in lines[3:]] == [
        ("order", "parent-1"),
        ("parent", None),
    ]
    assert [each["frame"].partition(".py:")[2] for each in lines[:3]] == ["12 lookup", "32 broken", "12 lookup"]
    assert (lines[2]["saga"], lines[2]["step"], lines[2]["reason"]) == ("journey", "pay", "failed")
    assert all(f"`bridge instances show {each['instance']}`" in each["event"] for each in lines)
    assert "4111-1111-1111" not in str(logs)


async def test_words_that_may_be_payload_are_left_out(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS) as it:
            await finish(it, "trip", refused=True, card="anna@example.org, 4111-1111-1111\n")
            await it.until(lambda: it.daemon.finishes["default"].finished, "the end")
    [line] = [each for each in logs if each.get("action") == "compensated"]
    assert "reason" not in line
    assert "4111-1111-1111" not in str(logs)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_failed_compensation_is_logged_with_step_and_type(tmp_path: Path, engine: str) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, FLOWS, engine) as it:
            await finish(it, "trip", stuck=True, refused=True)
            await it.until(lambda: it.daemon.finishes["default"].finished, "the end")
    [line] = [each for each in logs if each.get("action") == "failed"]
    assert (line["outcome"], line["compensation"], line["error"]) == ("compensation_failed", "stock", "ValueError")
    assert "compensation of stock failed, ValueError at " in line["event"]
    assert "4111" not in str(logs), "a reason that is no name, and messages of errors"


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_saga_named_by_payload_has_the_name_other(tmp_path: Path, engine: str) -> None:
    flows = FLOWS.replace('Saga(ctx, "journey")', "Saga(ctx, f\"saga-of-{order['card']}\")")
    with capture_logs() as logs:
        async with running(tmp_path, CONFIG, flows, engine) as it:
            await finish(it, "trip")
            finishes = it.daemon.finishes["default"]
            await it.until(lambda: finishes.sagas, "the end")
            assert dict(finishes.sagas) == {("other", "compensated"): 1}
            text = (await it.daemon.watch.scrape()).decode()
            document = await it.daemon.status.document()
    assert 'bridge_sagas_total{outcome="compensated",saga="other"} 1.0' in text
    [line] = [each for each in logs if each.get("action") == "compensated"]
    assert line["saga"] == "other"
    assert "4111" not in text + str(logs) + str(document)


def test_names_of_sagas_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.engines.worker.finishes.MAX_NAMES", 3)
    finishes = Finishes()
    for character in "abcde":
        finishes.add_one(end(1, saga=f"saga-of-{character}", outcome="compensated"))
    assert {name for name, _ in finishes.sagas} == {"saga-of-a", "saga-of-b", "saga-of-c", "other"}


def test_a_worker_in_another_process_leaves_the_line_to_the_daemon(tmp_path: Path) -> None:
    (tmp_path / "flows_apart.py").write_text(FLOWS)
    (tmp_path / "bridge.yaml").write_text(
        f"engine: {{type: embedded}}\nbrokers: {{local: {{type: local}}}}\nops: {{http: {{port: 0}}}}\n"
        f"workflows: [flows_apart]\n{CONFIG}"
    )
    with (
        DaemonProcess(tmp_path, "--no-worker") as daemon,
        DaemonProcess(tmp_path, command="worker", log="worker.log") as worker,
    ):
        for number in range(3):
            bridge("instances", "start", "order", "--id", f"order-{number}", "--input", json.dumps(ORDER), cwd=tmp_path)
        daemon.wait(lambda: daemon.log.read_text().count('"action":"failed"') >= 3, "three lines")
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if '"action":"failed"' in line]
        assert sorted(each["instance"] for each in lines) == ["order-0", "order-1", "order-2"]
        assert {each["error"] for each in lines} == {"KeyError"}
        assert '"action":"failed"' not in worker.log.read_text()
        assert "4111-1111-1111" not in daemon.log.read_text()


def end(number: int, **more: Any) -> Finish:
    given: dict[str, Any] = {
        "instance_id": f"i-{number}", "execution": "x", "name": "order", "saga": "", "status": FAILED, "outcome": "",
        "has_run": True, "seconds": 1.0, "failure": pb.TaskFailureDetails(errorType="KeyError", errorMessage="secret"),
    }  # fmt: skip
    return Finish(**given | more)


async def test_lines_beyond_the_limit_are_counted() -> None:
    now = 0.0
    log = FailureLog("default", asyncio.get_running_loop(), 10, lambda: now)
    with capture_logs() as logs:
        for number in range(5000):
            log.add(end(number, name="order" if number % 2 else f"name-{number % 40}"))
        log.report()
        await asyncio.sleep(0)
        assert len(logs) == 10
        assert log.omitted == 4990
        now = 60.0
        log.report()
        log.report()
        log.add(end(1))
        await asyncio.sleep(0)
    assert len(logs) == 12
    assert logs[10]["count"] == 4990
    assert "2,495 of order" in logs[10]["event"]
    assert len(logs[10]["event"]) < 500
    assert "secret" not in str(logs)


def test_a_failure_names_the_cause_only_where_the_task_is_the_cause() -> None:
    task = pb.TaskFailureDetails(errorType="builtins.KeyError")
    own = pb.TaskFailureDetails(errorType="builtins.ValueError")
    of_task = pb.TaskFailureDetails(errorType="durabletask.task.TaskFailedError")
    assert failure_of(end(1, failure=of_task, cause=task)).error == "KeyError"
    assert failure_of(end(1, failure=own, cause=task)).error == "ValueError"
    status = json.dumps({"saga": "trip", "status": "compensated", "reason": "cancelled", "detail": "secret"})
    cancelled = end(1, status=COMPLETED, outcome="compensated", saga="trip", custom_status=status, failure=None)
    found = failure_of(cancelled)
    assert found == InstanceFailure("order", "i-1", "trip", "compensated", reason="cancelled")
    odd = failure_of(end(1, failure=pb.TaskFailureDetails(errorType="E\n4111 1111", errorMessage="secret")))
    assert odd.error == ""


def test_names_that_no_worker_knows_share_one_label() -> None:
    finishes = Finishes({"order"})
    for number in range(3):
        finishes.add_one(end(number, name=f"from-payload-{number}", has_run=False))
    finishes.add_one(end(4, name="order", has_run=False))
    finishes.add_one(end(5, name="child", has_run=True))
    assert dict(finishes.finished) == {("other", "failed"): 3, ("order", "failed"): 1, ("child", "failed"): 1}


async def test_metrics_count_instances_without_a_query(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        for name in ("works", "order", "trip"):
            await finish(it, name)
        await it.client.schedule_new_orchestration("from-payload-1", instance_id="unknown-1")
        await it.until(lambda: it.daemon.finishes["default"].finished.total() >= 3, "all ends")
        text = (await it.daemon.watch.scrape()).decode()
    lines = set(text.splitlines())
    assert {
        'bridge_instances{engine="default",orchestration="order",status="failed"} 1.0',
        'bridge_instances{engine="default",orchestration="works",status="completed"} 1.0',
        'bridge_instances{engine="default",orchestration="other",status="pending"} 1.0',
        'bridge_instances_finished_total{engine="default",orchestration="order",status="failed"} 1.0',
        'bridge_sagas_total{outcome="compensated",saga="journey"} 1.0',
        'bridge_activity_seconds_count{activity="charge",result="failed"} 2.0',
        'bridge_activity_seconds_count{activity="keep",result="completed"} 2.0',
        'bridge_orchestration_seconds_count{orchestration="works",status="completed"} 1.0',
        'bridge_engine_request_seconds_count{command="start",engine="default",result="ok"} 4.0',
        'bridge_engine_actions_total{engine="default",kind="activity",route=""} 4.0',
        "bridge_sessions 0.0",
    } <= lines, text
    assert "from-payload" not in text


async def test_failed_sagas_make_unready_only_where_asked(tmp_path: Path) -> None:
    async with running(tmp_path, CONFIG, FLOWS) as it:
        figures, watch = it.daemon.figures, it.daemon.watch
        await finish(it, "trip", late=True, refused=True)
        await figures.refresh()
        assert [each for each in watch.health().checks if each.kind == "sagas"] == []
        assert watch.health().ready
        figures.unready_on = ["failed_compensations"]
        assert watch.health().ready
        figures.unready_on = ["failed_sagas"]
        assert not watch.health().ready
        [check] = [each for each in watch.health().checks if each.kind == "sagas"]
        assert check.state == "failed"
        assert check.detail.startswith("1 journey failed; `bridge instances list --outcome compensation_failed")
        await it.client.purge_orchestration("trip-1")
        await figures.refresh()
        assert watch.health().ready


DECLARED = """
sources:
  orders: {broker: local, topics: [orders], codec: json, no_match: ignore}
  answers: {broker: local, topics: [answers], codec: json, no_match: ignore}
targets:
  bank: {broker: local, topic: bank}
sagas:
  checkout:
    replies: answers
    steps:
      - name: receipt
        command: {target: bank, type: print, data: "{'of': input.id}", reply: false}
        compensation: {target: bank, type: tear, data: "{'of': input.id}"}
      - name: payment
        command: {target: bank, type: take, data: "{'card': input.card}"}
        timeout: 1m
routes:
  - {name: start, from: orders, schedule: {saga: checkout, instance_id: "order-{{ payload.id }}"}}
  - {name: answer, from: answers, reply: {}}
"""


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_declared_saga_has_its_own_name_everywhere(tmp_path: Path, engine: str) -> None:
    with capture_logs() as logs:
        async with running(tmp_path, DECLARED, FLOWS, engine) as it:
            await it.publish("orders", {"id": "4711", "owner": "anna@example.org"})
            finishes = it.daemon.finishes["default"]
            await it.until(lambda: finishes.sagas, "the end of the saga")
            assert dict(finishes.finished) == {("checkout", "completed"): 1}
            assert dict(finishes.sagas) == {("checkout", "compensated"): 1}
            text = (await it.daemon.watch.scrape()).decode()
    [line] = [each for each in logs if each.get("action") in ("failed", "compensated")]
    assert (line["orchestration"], line["saga"], line["outcome"]) == ("checkout", "checkout", "compensated")
    assert (line["step"], line["reason"], line["instance"]) == ("payment", "expression", "order-4711")
    assert "anna" not in str(logs)
    assert 'bridge_sagas_total{outcome="compensated",saga="checkout"} 1.0' in text
    if engine == "embedded":
        assert 'bridge_instances{engine="default",orchestration="checkout",status="completed"} 1.0' in text
        assert 'bridge_engine_actions_total{engine="default",kind="start",route="start"} 1.0' in text
    assert 'orchestration="bridge.saga"' not in text
