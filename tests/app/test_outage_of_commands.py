"""Engine outage during each command, before the engine received the call or before its answer."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from durabletask.client import OrchestrationStatus
from durabletask.entities import EntityInstanceId

from tests.kit.daemon import DaemonFixture, running
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

FLOWS = """
from durabletask import entities, task


def order(ctx: task.OrchestrationContext, given):
    return (yield ctx.wait_for_external_event("go"))


def cancellable(ctx: task.OrchestrationContext, given):
    return (yield ctx.wait_for_external_event("cancel"))


class Counter(entities.DurableEntity):
    def add(self, number):
        self.set_state(self.get_state(int, 0) + number)
"""

ID = 'instance_id: "order-{{ payload.id }}"'
COMMANDS = {
    "schedule": (f"{{orchestration: order, {ID}}}", "schedule_new_orchestration"),
    "raise_event": (f"{{{ID}, name: go}}", "raise_orchestration_event"),
    "start_or_raise": (f"{{orchestration: order, {ID}, event: go}}", "schedule_new_orchestration"),
    "cancel": (f"{{{ID}, reason: late}}", "raise_orchestration_event"),
    "terminate": (f"{{{ID}}}", "terminate_orchestration"),
    "suspend": (f"{{{ID}}}", "suspend_orchestration"),
    "resume": (f"{{{ID}}}", "resume_orchestration"),
    "signal_entity": ('{entity: counter, key: "{{ payload.id }}", operation: add, input: "1"}', "signal_entity"),
}
"""Settings of the route by command, and the client call that is interrupted."""

CONFIG = """
sources:
  orders:
    {broker: local, topics: [orders], codec: json, no_match: dead_letter, retry: {in_memory: 50ms}}
routes:
  - {name: it, from: orders, COMMAND: SAYS}
"""

HELD, RESUMED = 3.0, 6.0
"""Limits in seconds for a busy machine; 1 s and 2 s are typical, and are printed."""


async def prepare(it: DaemonFixture, command: str) -> None:
    if command in ("raise_event", "cancel", "terminate", "suspend", "resume"):
        name = "cancellable" if command == "cancel" else "order"
        await it.client.schedule_new_orchestration(name, instance_id="order-1")
        await it.client.wait_for_orchestration_start("order-1", timeout=TIMEOUT)
    if command == "resume":
        await it.client.suspend_orchestration("order-1")


async def came_to_be(it: DaemonFixture, command: str, moment: str) -> None:
    """Assert that the effect exists, and, for effects that can be counted, exists once."""
    if command == "signal_entity":
        async with asyncio.timeout(TIMEOUT):
            while True:
                entity = await it.client.get_entity(EntityInstanceId("counter", "1"))
                if entity is not None and (entity.get_typed_state(int) or 0) >= 1:
                    return
                await asyncio.sleep(0.02)
    if command in ("raise_event", "cancel", "terminate"):
        state = await it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)
        ends = {"terminate": OrchestrationStatus.TERMINATED}
        assert state.runtime_status is ends.get(command, OrchestrationStatus.COMPLETED)
        return
    if command == "start_or_raise" and moment == "after":
        # The repeat found the instance and raised; without an inbox the orchestration sees it
        await it.client.wait_for_orchestration_start("order-1", timeout=TIMEOUT)
        return
    wanted = OrchestrationStatus.SUSPENDED if command == "suspend" else OrchestrationStatus.RUNNING

    async def reached() -> object:
        return (await it.client.get_orchestration_state("order-1")).runtime_status is wanted

    await eventually(reached)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("command", COMMANDS)
async def test_it_holds_loses_nothing_and_goes_on(
    tmp_path: Path, command: str, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    says, method = COMMANDS[command]
    config = CONFIG.replace("COMMAND", command).replace("SAYS", says)
    async with running(tmp_path, config, FLOWS, "behind a port") as it:
        await prepare(it, command)
        assert it.host is not None
        host, source, loop = it.host, it.daemon.sources[0], asyncio.get_running_loop()
        call = getattr(it.client, method)
        cut_at: list[float] = []

        async def cut(*given: Any, **named: Any) -> Any:
            if cut_at:
                return await call(*given, **named)
            if moment == "after":
                await call(*given, **named)
            cut_at.append(loop.time())
            await host.stop()
            if moment == "after":
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, "the answer was lost")
            return await call(*given, **named)

        monkeypatch.setattr(it.client, method, cut)
        await it.publish("orders", {"id": "1"}, key="a")
        await it.until(lambda: source.gate.pause_reasons, "held")
        held = loop.time() - cut_at[0]
        await asyncio.sleep(1.0)
        assert source.gate.pause_reasons
        assert it.outcomes() == {}, "nothing is settled, nothing dead-lettered"
        assert not source.ledger.abandoned
        back = loop.time()
        await host.start()
        await it.settled(1)
        resumed = loop.time() - back
        print(f"{command}, {moment}: held after {held:.2f} s, settled {resumed:.2f} s after the return")
        assert held < HELD
        assert resumed < RESUMED
        assert set(it.outcomes()) <= {"executed", "duplicate", "ignored"}
        await came_to_be(it, command, moment)
