"""Capabilities that an engine lacks: learned at the start, and rules that it cannot keep refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.core.commands import Cancel, RaiseEvent, ScheduleOrchestration
from bridge.core.errors import BridgeError, ConfigError, EngineRejected, InstanceFinished
from bridge.core.origin import MessageOrigin
from bridge.engines.commands.command_runner import CommandRunner
from bridge.engines.remote.capabilities import Capability
from tests.engines.sidecar import Sidecar
from tests.kit.daemon import running
from tests.kit.processes import bridge
from tests.kit.waiting import eventually

FLOWS = """
from durabletask import task


def greet(ctx: task.ActivityContext, name):
    return f"hello {name}"


def order(ctx: task.OrchestrationContext, name):
    event = yield ctx.wait_for_external_event("go")
    return (yield ctx.call_activity(greet, input=f"{name} {event}"))
"""
CONFIG = """
sources:
  orders: {{broker: local, topics: [orders], codec: json, attributes: {{type: payload.type}}, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    match: {{type: start}}
    schedule: {{orchestration: order, instance_id: "order-{{{{ payload.id }}}}", input: payload.id}}
  - name: go
    from: orders
    match: {{type: go}}
    raise_event: {{instance_id: "order-{{{{ payload.id }}}}", name: go, data: "'there'"{more}}}
{routes}
"""
KEPT = ", on_finished: ignore"
MISSING = {
    Capability.ENTITIES: ("GetEntity", "QueryEntities", "SignalEntity"),
    Capability.QUERIES: ("QueryInstances",),
    Capability.HISTORIES: ("StreamInstanceHistory",),
}


@pytest.fixture
async def sidecar(tmp_path: Path) -> AsyncIterator[Sidecar]:
    made = Sidecar(tmp_path / "sidecar")
    made.start()
    yield made
    await asyncio.to_thread(made.close)


def _lacks(sidecar: Sidecar, *capabilities: Capability) -> None:
    sidecar.gate.unimplemented = frozenset(name for each in capabilities for name in MISSING[each])


async def test_an_engine_without_entities_queries_and_histories_runs_the_other_rules(
    tmp_path: Path, sidecar: Sidecar
) -> None:
    _lacks(sidecar, *MISSING)
    settings = ", answers: {signatures: 'off'}"
    config = CONFIG.format(more=KEPT, routes="")
    async with running(tmp_path, config, FLOWS, endpoint=sidecar.endpoint, settings=settings) as it:
        assert it.client.lacking == set(Capability)
        await it.publish("orders", {"type": "start", "id": "1"}, "1")
        await it.publish("orders", {"type": "go", "id": "1"}, "1")
        state = await it.client.wait_for_orchestration_completion("order-1")
        assert json.loads(state.serialized_output) == "hello 1 there"
        await it.publish("orders", {"type": "go", "id": "1", "again": True}, "1")
        await it.settled(3)
        # The first event ends the instance: without histories nothing shows if the instance has received it
        assert it.outcomes().keys() == {"executed", "ignored"}
        # Nothing but the finished instance: no worker has got work that another one runs
        assert it.daemon.breakers["default"].error is None
        executor = CommandRunner(it.daemon.engines["default"])
        late = MessageOrigin("m-9", "late")
        with pytest.raises(InstanceFinished):
            await executor.execute(Cancel("order-1"), late)
        with pytest.raises(EngineRejected, match="has no histories that show if it received the message"):
            await executor.execute(RaiseEvent("order-1", "go"), late)
        with pytest.raises(EngineRejected, match="the engine has no entities"):
            await it.daemon.early["default"].store.notify_started("order-1")
        await executor.execute(ScheduleOrchestration("order", "order-2", "x"), MessageOrigin("m-10", "late"))


REFUSED = {
    "wait": (", on_missing: {wait: 1h}, on_finished: ignore", "", "route go: `on_missing: {wait: ...}` needs entities"),
    "events": ("", "", "route go: `raise_event` without `on_finished: ignore` needs histories"),
    "limits": (
        KEPT,
        """
  - name: few
    from: orders
    match: {type: few}
    limits: {running: 2}
    schedule: {orchestration: order, instance_id: "few-{{ payload.id }}"}
""",
        "route few: `limits` with `running` needs queries",
    ),
    "restart": (
        KEPT,
        """
  - name: anew
    from: orders
    match: {type: anew}
    schedule: {orchestration: order, instance_id: "anew-{{ payload.id }}", on_existing: restart}
""",
        "route anew: `on_existing: restart` needs histories",
    ),
    "late": (
        KEPT,
        """
  - name: late
    from: orders
    match: {type: late}
    schedule: {orchestration: order, instance_id: "late-{{ payload.id }}", delay: 1h}
""",
        "route late: `delay` needs the current protocol",
    ),
    "entity": (
        KEPT,
        """
  - {name: count, from: orders, match: {type: count}, signal_entity: {entity: Counter, key: a, operation: add}}
""",
        "route count: `signal_entity` needs entities",
    ),
    "answers": (
        KEPT,
        "\n  - {name: answer, from: orders, match: {type: answer}, reply: {}}",
        "route answer: `reply` with `answers.signatures` other than `off` needs entities",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_rule_that_the_engine_cannot_keep_is_refused_by_name(
    tmp_path: Path, sidecar: Sidecar, case: str
) -> None:
    _lacks(sidecar, *MISSING)
    more, routes, wanted = REFUSED[case]
    config = CONFIG.format(more=more, routes=routes)
    with pytest.raises(ConfigError) as refused:
        async with running(tmp_path, config, FLOWS, endpoint=sidecar.endpoint):
            pass
    [problem] = refused.value.problems
    assert problem.what == f"{wanted}, which engine default does not have"
    assert (problem.file, problem.line > 1) == (str(tmp_path / "bridge.yaml"), True)
    # Doctor finds the same without a daemon
    found = json.loads(await asyncio.to_thread(bridge, "doctor", "--json", cwd=tmp_path, expect=None))
    [answer] = [each for each in found["checks"] if each["check"] == "capabilities"]
    assert wanted in answer["detail"]


async def test_an_engine_that_answers_later_holds_rules_that_it_cannot_keep(tmp_path: Path, sidecar: Sidecar) -> None:
    _lacks(sidecar, Capability.HISTORIES)
    sidecar.gate.unimplemented |= {"GetInstance"}
    config = CONFIG.format(more="", routes="")
    async with running(tmp_path, config, FLOWS, endpoint=sidecar.endpoint) as it:
        breaker = it.daemon.breakers["default"]
        assert breaker.error is not None
        sidecar.gate.unimplemented -= {"GetInstance"}

        def says_why() -> bool:
            return "route go: `raise_event` without `on_finished: ignore` needs histories" in str(breaker.error)

        await eventually(says_why, "the breaker names the rule")


async def test_an_engine_with_all_capabilities_lacks_none(tmp_path: Path, sidecar: Sidecar) -> None:
    async with running(tmp_path, CONFIG.format(more="", routes=""), FLOWS, endpoint=sidecar.endpoint) as it:
        assert it.client.lacking == set()
        assert not isinstance(it.daemon.breakers["default"].error, BridgeError)
