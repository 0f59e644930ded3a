"""`max_actions_per_minute`: starts wait in turn, other commands pass, order per key holds, nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from bridge.core.commands import Command, RaiseEvent, ScheduleOrchestration
from bridge.core.errors import EngineUnavailable
from bridge.core.states import SourceState
from bridge.pipeline.limits.action_budget import ActionBudget
from tests.kit.pipeline import START, PipelineFixture, message, running_pipeline
from tests.kit.processes import DaemonProcess, run_bridge

EVENT = """
  - name: event
    from: orders
    match: {type: event}
    raise_event: {name: paid, instance_id: "order-{{ payload.id }}"}
  - name: stop
    from: orders
    match: {type: stop}
    terminate: {instance_id: "order-{{ payload.id }}"}
  - name: other
    from: orders
    match: {type: other}
    schedule: {orchestration: other, instance_id: "other-{{ payload.id }}"}
"""
SMALL = "    limits: {max_in_flight: 20}"


def _started(it: PipelineFixture) -> list[str]:
    return [each.instance_id for each in it.faults.taken if isinstance(each, ScheduleOrchestration)]


def _open(budget: ActionBudget, per_minute: int = 60_000_000) -> None:
    """Let all waiting starts go."""
    budget._rate = per_minute / 60
    budget.give_back(per_minute)


async def test_starts_wait_and_other_commands_pass(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, budget=budget) as it:
        await it.source.start()
        await it.publish(message("start", "a", "a"))
        await it.settled(1)
        await it.publish(*(message("start", number, f"k{number}") for number in range(10)))
        await it.until(lambda: budget.waiting == 10, "starts wait")
        await it.publish(*(message("event", "a", "a") for _ in range(5)), message("stop", "a", "a"))
        await it.settled(7)
        assert [type(each).__name__ for each in it.faults.taken[1:]] == ["RaiseEvent"] * 5 + ["Terminate"]
        assert budget.waiting == 10
        _open(budget)
        await it.settled(17)
        assert len(_started(it)) == 11
        assert budget.delayed == 10
        assert not budget._admitted


async def test_an_event_waits_behind_the_start_of_its_own_key(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, budget=budget) as it:
        await it.source.start()
        await it.publish(*(message("start", number, f"k{number}") for number in range(5)))
        await it.until(lambda: budget.waiting == 4, "starts wait")
        await it.publish(*(message("event", number, f"k{number}") for number in range(5)))
        await it.settled(2)  # the first start, and its event
        assert budget.waiting == 4
        _open(budget)
        await it.settled(10)
        for number in range(5):
            mine = [type(each) for each in it.faults.taken if each.instance_id == f"order-{number}"]  # type: ignore[union-attr]  # no entities here
            assert mine == [ScheduleOrchestration, RaiseEvent]


async def test_more_than_the_source_may_hold_waits_and_events_are_still_read(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, SMALL, budget=budget) as it:
        await it.source.start()
        await it.publish(message("start", "a", "a"))
        await it.settled(1)
        await it.publish(*(message("start", number, f"k{number}", fill="x" * 100) for number in range(150)))
        await it.until(lambda: budget.waiting >= 140, "starts wait beyond the bound")
        assert it.source.unloading.in_memory <= 20
        await it.publish(*(message("event", "a", "a") for _ in range(5)))
        await it.until(lambda: sum(isinstance(each, RaiseEvent) for each in it.faults.taken) == 5, "events pass")
        _open(budget)
        await it.settled(156)
        assert sorted(_started(it)[1:]) == sorted(f"order-{number}" for number in range(150))
        assert it.source.unloading.count == 0
        assert not it.source.unloading.has_blocked


async def test_routes_are_admitted_in_turn(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, budget=budget) as it:
        await it.source.start()
        await it.publish(*(message("start", number, f"k{number}") for number in range(60)))
        await it.until(lambda: budget.waiting == 59, "starts wait")
        await it.publish(*(message("other", number, f"o{number}") for number in range(5)))
        await it.until(lambda: budget.waiting == 64, "the other route waits too")
        _open(budget, 6000)
        await it.settled(65)
        others = [place for place, name in enumerate(_started(it)) if name.startswith("other")]
        assert max(others) <= 2 * 5 + 2


async def test_no_more_starts_than_the_limit_allows(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1200)  # 20 a second, and 20 at once
    async with running_pipeline(tmp_path, budget=budget) as it:
        await it.source.start()
        began = time.monotonic()
        await it.publish(*(message("start", number, f"k{number}") for number in range(60)))
        await it.settled(60)
        # 20 at once, the other 40 in two seconds; a slow machine only takes longer
        assert time.monotonic() - began >= 1.9


async def test_a_start_that_the_engine_did_not_accept_costs_nothing(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, budget=budget) as it:
        failures = 3

        async def fail(command: Command) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                raise EngineUnavailable("away")

        it.faults.before = fail
        await it.source.start()
        await it.publish(message("start", 1, "a"))
        await it.settled(1)
        # Repeats start nothing, and leave the budget to others
        await it.publish(message("start", 1, "a"))
        await it.until(lambda: budget.waiting == 1, "the repeat waits")
        budget._left = 0.5
        budget.give_back(0)
        await it.settled(2)
        await it.publish(message("start", 2, "b"))
        await it.settled(3)
        assert _started(it) == ["order-1", "order-2"]


async def test_an_outage_leaves_waiting_starts_in_their_queue(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, SMALL, budget=budget) as it:
        await it.source.start()
        await it.publish(message("start", "a", "a"))
        await it.settled(1)
        await it.publish(*(message("start", number, f"k{number}") for number in range(100)))
        await it.until(lambda: budget.waiting == 100, "starts wait")
        unloaded = it.source.unloading.count
        assert unloaded > 50
        it.faults.outage = EngineUnavailable("away")
        await it.publish(message("event", "a", "a"))
        await it.until(lambda: it.breaker.error is not None, "an outage")
        it.faults.outage = None
        await it.settled(2)
        assert budget.waiting == 100
        assert budget.delayed == 100
        assert it.source.unloading.count == unloaded
        _open(budget)
        await it.settled(102)


async def test_a_drain_gives_waiting_starts_back(tmp_path: Path) -> None:
    budget = ActionBudget("default", 1)
    async with running_pipeline(tmp_path, START + EVENT, SMALL, budget=budget) as it:
        await it.source.start()
        await it.publish(*(message("start", number, f"k{number}") for number in range(50)))
        await it.until(lambda: budget.waiting == 49, "starts wait")
        await it.source.drain(5)
        assert budget.waiting == 0
        assert not budget._admitted
        assert it.source.ledger.abandoned["drain"] == 49


# -- the daemon

CONFIG = """
engine: {type: embedded, max_actions_per_minute: 60}
brokers: {local: {type: local}}
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: ignore}}
routes:
  - {name: start, from: orders, schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}}
workflows: {external: [order]}
ops: {http: {port: 0}}
"""


@pytest.mark.timeout(120)
def test_the_daemon_is_throttled_and_tells_it(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(CONFIG)
    with DaemonProcess(tmp_path) as daemon:
        lines = "".join(f'{{"key": "k{number}", "body": {{"id": {number}}}}}\n' for number in range(100))
        (tmp_path / "starts.jsonl").write_text(lines)
        assert run_bridge("publish", "orders", "--jsonl", "starts.jsonl", cwd=tmp_path).returncode == 0
        daemon.wait(lambda: daemon.metrics("bridge_engine_starts_waiting").get('{engine="default"}', 0) > 50, "waits")
        status, body = daemon.get("/readyz")
        assert status == 200
        assert f'"{SourceState.THROTTLED}"' in body
        assert "starts wait for max_actions_per_minute (60) of engine default" in body
        assert daemon.metrics("bridge_engine_starts_delayed_total")['{engine="default"}'] > 50
        daemon.stop()


def test_costs_of_routes_are_those_of_the_command(tmp_path: Path) -> None:
    from bridge.app.composition import load_config
    from bridge.app.serve.admission import build_budgets

    (tmp_path / "bridge.yaml").write_text(CONFIG)
    budgets, costs = build_budgets(load_config([tmp_path / "bridge.yaml"]))
    assert set(budgets) == {"default"}
    assert costs == {"start": 1}
    (tmp_path / "bridge.yaml").write_text(CONFIG.replace(", max_actions_per_minute: 60", ""))
    nothing: Mapping[str, Any] = {}
    assert build_budgets(load_config([tmp_path / "bridge.yaml"])) == (nothing, nothing)
