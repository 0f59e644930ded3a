"""Order per key on an engine that does not count the operations that a worker is processing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.core.errors import EngineError
from bridge.quarantine.entity import QuarantineEntities
from bridge.quarantine.operations import QuarantineOperations
from tests.kit.daemon import DaemonFixture, running
from tests.kit.processes import sidecar
from tests.kit.waiting import TIMEOUT, eventually

pytestmark = pytest.mark.long

FLOWS = """
from bridge.workflow import wait_for_message


def collect(ctx, count):
    got = []
    for _ in range(count):
        got.append((yield from wait_for_message(ctx, "noted")).data)
    return got
"""
CONFIG = """
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
SOURCE
routes:
  - name: start
    from: orders
    match: {type: start}
    schedule: {orchestration: collect, instance_id: "order-{{ payload.id }}", input: payload.count}
  - name: note
    from: orders
    match: {type: note}
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload.number, on_missing: MISSING}
"""


async def received(it: DaemonFixture, key: str) -> Any:
    state = await it.client.wait_for_orchestration_completion(f"order-{key}", timeout=TIMEOUT)
    assert state is not None
    return state.get_output()


async def test_no_message_overtakes_an_early_one_that_is_being_stored(tmp_path: Path) -> None:
    keys = [f"k{number}" for number in range(40)]
    config = CONFIG.replace("SOURCE\n", "").replace("MISSING", "{wait: 1h}")
    with sidecar() as endpoint:
        async with running(tmp_path, config, FLOWS, endpoint=f"http://{endpoint}") as it:
            for key in keys:
                await it.publish("orders", {"id": key, "number": 0}, key, type="note")
                await it.publish("orders", {"id": key, "count": 4}, key, type="start")
                for number in (1, 2, 3):
                    await it.publish("orders", {"id": key, "number": number}, key, type="note")
            assert {key: await received(it, key) for key in keys} == {key: [0, 1, 2, 3] for key in keys}


def _late(operate: Callable[..., Any]) -> Callable[..., Any]:
    """Operation that takes 40 ms, as on a busy worker."""

    def late(*arguments: Any) -> None:
        time.sleep(0.02)
        operate(*arguments)
        time.sleep(0.02)

    return late


async def test_no_message_overtakes_one_that_is_joining_the_quarantine_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, count = [f"k{number}" for number in range(20)], 40
    monkeypatch.setattr(QuarantineEntities, "_operate", _late(QuarantineEntities._operate))
    source = "    quarantine: {poll: 50ms}\n"
    config = CONFIG.replace("SOURCE\n", source).replace("MISSING", "dead_letter")
    with sidecar() as endpoint:
        async with running(tmp_path, config, FLOWS, endpoint=f"http://{endpoint}") as it:
            quarantine = QuarantineOperations(it.daemon.engines["default"])
            for key in keys:
                await it.publish("orders", {"id": key, "number": 0}, key, type="note")
            await it.settled(len(keys))
            for key in keys:
                await it.client.schedule_new_orchestration("collect", input=count, instance_id=f"order-{key}")

            async def released(key: str) -> bool:
                try:
                    await quarantine.release("orders", key)
                except EngineError:
                    return False  # the message is being stored
                return True

            for number, key in enumerate(keys * (count - 1)):
                await it.publish("orders", {"id": key, "number": 1 + number // len(keys)}, key, type="note")
                if number < len(keys):
                    await eventually(lambda key=key: released(key))  # type: ignore[misc]  # mypy cannot infer it
            assert {key: await received(it, key) for key in keys} == {key: list(range(count)) for key in keys}
