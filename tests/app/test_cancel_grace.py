"""Cancel with a grace: the instance ends by itself or is terminated, and never while it compensates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from durabletask.client import OrchestrationQuery, OrchestrationStatus

from bridge.engines.commands.cancel_grace import CANCEL_GRACE_IDS, PROBE_EVENT, CancelGrace, acknowledged
from tests.kit.daemon import ENGINES, DaemonFixture, running
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

GRACE = 0.6

CONFIG = """
sources: {orders: {broker: local, topics: [orders], codec: json, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    when: has(payload.start)
    schedule: {orchestration: "ORCHESTRATION", instance_id: "order-{{ payload.id }}", on_existing: restart}
  - name: cancel
    from: orders
    cancel: {instance_id: "order-{{ payload.id }}", grace: 600ms, reason: late}
"""

FLOWS = '''
import time
from datetime import timedelta
from pathlib import Path

from bridge.workflow import Saga, Step, acknowledge_cancel
from durabletask import task


def nothing(ctx: task.ActivityContext, _):
    return None


def held(ctx: task.ActivityContext, _):
    while not Path(__file__).with_name("go").exists():
        time.sleep(0.01)


def deaf(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("never")


def nested(ctx: task.OrchestrationContext, _):
    yield ctx.call_sub_orchestrator(deaf, instance_id=ctx.instance_id + ":child")


def polite(ctx: task.OrchestrationContext, _):
    yield ctx.wait_for_external_event("cancel")
    acknowledge_cancel(ctx, stage="undoing")
    yield ctx.call_activity(held)
    return "undone"


def saga(ctx: task.OrchestrationContext, _):
    one = Saga(ctx, "order")

    def body():
        yield from one.step(Step("stock", nothing, compensation=held))
        yield from one.wait_for_event("never")

    return (yield from one.run(body()))


def busy(ctx: task.OrchestrationContext, _):
    """In the middle of a step when its grace is over: it has heard the cancel all the same."""
    one = Saga(ctx, "order")

    def body():
        yield from one.step(Step("stock", held, compensation=nothing))
        yield from one.wait_for_event("never")

    return (yield from one.run(body()))


def committed(ctx: task.OrchestrationContext, _):
    one = Saga(ctx, "order")

    def body():
        yield from one.step(Step("stock", nothing, compensation=held))
        one.point_of_no_return()
        yield ctx.call_activity(held)

    return (yield from one.run(body()))


def racer(ctx: task.OrchestrationContext, order):
    """Acknowledges at about the time when its grace is over, and then undoes in two activities."""
    cancel = yield ctx.wait_for_external_event("cancel")
    yield ctx.create_timer(timedelta(seconds=order["after"]))
    acknowledge_cancel(ctx)
    yield ctx.call_activity(nothing)
    yield ctx.call_activity(nothing)
    return "undone"
'''


@pytest.fixture
def verdict_allowed(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Event that allows verdicts: on a busy machine the grace may end before the test has acted."""
    allowed = asyncio.Event()
    look = CancelGrace.check

    async def held(self: CancelGrace, request: Mapping[str, Any]) -> dict[str, Any]:
        await allowed.wait()
        return await look(self, request)

    monkeypatch.setattr(CancelGrace, "check", held)
    return allowed


async def finished(it: DaemonFixture, instance_id: str) -> Any:
    return await it.client.wait_for_orchestration_completion(instance_id, timeout=TIMEOUT)


async def guards(it: DaemonFixture) -> list[Any]:
    query = OrchestrationQuery(instance_id_prefix=CANCEL_GRACE_IDS, fetch_inputs_and_outputs=True)
    return list(await it.client.get_all_orchestration_states(query))


async def verdicts(it: DaemonFixture) -> list[Any]:
    """Outputs of the cancel-grace orchestrations, once all have completed."""

    async def reached() -> object:
        return all(state.runtime_status is OrchestrationStatus.COMPLETED for state in await guards(it))

    await eventually(reached)
    return [state.get_output() for state in await guards(it)]


async def cancelled(it: DaemonFixture, instance_id: str = "order-1", *, count: int = 1) -> None:
    await it.publish("orders", {"id": instance_id.partition("-")[2], "start": True}, key="a")
    await it.settled(count)
    await it.client.wait_for_orchestration_start(instance_id, timeout=TIMEOUT)
    await it.publish("orders", {"id": instance_id.partition("-")[2]}, key="a")
    await it.settled(count + 1)


async def acknowledges(it: DaemonFixture) -> None:
    """Wait until the status of `order-1` acknowledges the cancel."""

    async def reached() -> object:
        return acknowledged((await it.client.get_orchestration_state("order-1")).get_custom_status())

    await eventually(reached)


def config(orchestration: str) -> str:
    return CONFIG.replace('"ORCHESTRATION"', orchestration)


@pytest.mark.parametrize("engine", ENGINES)
async def test_who_does_not_acknowledge_is_terminated_after_the_grace_with_its_children(
    tmp_path: Path, engine: str
) -> None:
    async with running(tmp_path, config("nested"), FLOWS, engine) as it:
        await cancelled(it)
        began = time.monotonic()
        state = await finished(it, "order-1")
        assert time.monotonic() - began >= GRACE - 0.3, "not before"
        assert state.runtime_status is OrchestrationStatus.TERMINATED
        assert state.get_output() == {"cancelled": True, "reason": "late"}
        assert (await finished(it, "order-1:child")).runtime_status is OrchestrationStatus.TERMINATED
        assert await verdicts(it) == ["terminated"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("orchestration", "output"),
    [("polite", "undone"), ("saga", "compensated"), ("busy", "compensated"), ("committed", "completed")],
)
async def test_who_acknowledges_has_all_the_time_it_needs(
    tmp_path: Path, engine: str, orchestration: str, output: str, verdict_allowed: asyncio.Event
) -> None:
    async with running(tmp_path, config(orchestration), FLOWS, engine) as it:
        await it.publish("orders", {"id": "1", "start": True}, key="a")
        await it.settled(1)
        if orchestration == "committed":
            await acknowledges(it)
        await it.publish("orders", {"id": "1"}, key="a")
        await it.settled(2)
        await acknowledges(it)
        verdict_allowed.set()
        assert await verdicts(it) == ["acknowledged"]
        (tmp_path / "go").touch()
        state = await finished(it, "order-1")
        assert state.runtime_status is OrchestrationStatus.COMPLETED
        found = state.get_output()
        assert (found if isinstance(found, str) else found["status"]) == output


async def test_who_has_finished_is_left_alone_and_a_repeat_guards_nothing_anew(
    tmp_path: Path, verdict_allowed: asyncio.Event
) -> None:
    async with running(tmp_path, config("deaf"), FLOWS) as it:
        await cancelled(it)
        await it.client.terminate_orchestration("order-1", output="stopped")
        verdict_allowed.set()
        assert await verdicts(it) == ["ended"]
        assert (await finished(it, "order-1")).get_output() == "stopped"
        await it.publish("orders", {"id": "1"}, key="a")
        await it.settled(3)
        assert len(await guards(it)) == 1, "nothing is guarded that has finished"
        assert it.outcomes() == {"executed": 2, "ignored": 1}


async def test_a_later_instance_of_the_same_id_is_another_one(tmp_path: Path, verdict_allowed: asyncio.Event) -> None:
    async with running(tmp_path, config("deaf"), FLOWS) as it:
        await cancelled(it)
        await it.client.terminate_orchestration("order-1")
        await finished(it, "order-1")
        await it.publish("orders", {"id": "1", "start": True}, key="a")
        await it.settled(3)
        verdict_allowed.set()
        assert await verdicts(it) == ["replaced"]
        state = await it.client.get_orchestration_state("order-1")
        assert state.runtime_status is OrchestrationStatus.RUNNING


async def test_what_was_suspended_before_stays_so_when_it_had_acknowledged(
    tmp_path: Path, verdict_allowed: asyncio.Event
) -> None:
    async with running(tmp_path, config("polite"), FLOWS) as it:
        await cancelled(it)
        await acknowledges(it)
        await it.client.suspend_orchestration("order-1")
        verdict_allowed.set()
        assert await verdicts(it) == ["acknowledged"]
        state = await it.client.get_orchestration_state("order-1")
        assert state.runtime_status is OrchestrationStatus.SUSPENDED
        (tmp_path / "go").touch()
        await it.client.resume_orchestration("order-1")
        assert (await finished(it, "order-1")).get_output() == "undone"


async def test_a_cancel_that_waited_for_its_instance_has_its_grace_from_then_on(tmp_path: Path) -> None:
    parked = config("deaf").replace("grace: 600ms", "grace: 600ms, on_missing: {wait: 1h}")
    async with running(tmp_path, parked, FLOWS) as it:
        await it.publish("orders", {"id": "1"}, key="a")
        await it.settled(1)
        await asyncio.sleep(GRACE + 0.5)
        assert await guards(it) == [], "no instance was cancelled yet"
        await it.publish("orders", {"id": "1", "start": True}, key="b")
        state = await finished(it, "order-1")
        assert state.runtime_status is OrchestrationStatus.TERMINATED
        assert await verdicts(it) == ["terminated"]


@pytest.mark.parametrize("engine", ENGINES)
async def test_who_acknowledges_in_the_very_moment_is_either_terminated_before_or_left_alone(
    tmp_path: Path, engine: str, verdict_allowed: asyncio.Event
) -> None:
    """The verdicts begin when the first instance has acknowledged, and the last one never does."""
    count = 60
    async with running(tmp_path, config("racer"), FLOWS, engine) as it:
        for number in range(count):
            after = 0.1 + 4.0 * (number / count) ** 2 if number < count - 1 else 86400.0
            await it.publish("orders", {"id": number, "start": True, "after": after}, key=f"k{number}")
        await it.settled(count)
        for number in range(count):
            await it.publish("orders", {"id": number}, key=f"k{number}")
        await it.settled(2 * count)
        await finished(it, "order-0")
        verdict_allowed.set()
        states = [await finished(it, f"order-{number}") for number in range(count)]
        for state in states:
            if state.runtime_status is OrchestrationStatus.TERMINATED:
                assert state.get_custom_status() is None, "it was compensating"
            else:
                assert state.get_output() == "undone"
        received = await verdicts(it)
        assert len(received) == count
        ends = {state.runtime_status for state in states}
        assert ends == {OrchestrationStatus.TERMINATED, OrchestrationStatus.COMPLETED}


@pytest.mark.parametrize(
    ("status", "yes"),
    [
        ({"cancel": "accepted", "more": 1}, True),
        ({"saga": "order", "status": "cancelling"}, True),
        ({"saga": "order", "status": "compensating"}, True),
        ({"saga": "order", "status": "compensation_failed"}, True),
        ({"saga": "order", "status": "running", "committed": True}, True),
        ({"saga": "order", "status": "running"}, False),
        ({"status": "compensating"}, False),
        ({"cancel": "asked"}, False),
        ("accepted", False),
        (["cancel"], False),
        (None, False),
    ],
)
def test_what_counts_as_acknowledged(status: Any, yes: bool) -> None:
    assert acknowledged(status) is yes


def test_nobody_waits_for_the_probe() -> None:
    assert PROBE_EVENT.startswith("bridge.")
