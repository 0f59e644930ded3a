"""Small project on disk, with its embedded engine and a worker, for tests of commands."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.engines.embedded.engine import EmbeddedEngine
from bridge.engines.keyrings import Keys, no_keys
from bridge.engines.worker.setup import stop_worker
from bridge.engines.workflows import load
from bridge.workflow import DataConverter, message_aware
from tests.kit.waiting import TIMEOUT

FLOWS = '''
"""Workflows that do little, each in its own way."""

import os
import tempfile
from datetime import timedelta
from pathlib import Path

from bridge.workflow import Entity, Saga, Step, wait_for_message
from durabletask import entities, task

REPAIRED = Path(tempfile.gettempdir()) / f"bridge-tests-repaired-{os.getpid()}"


def say(ctx: task.ActivityContext, name: str) -> str:
    return f"hello {name}"


def fragile(ctx: task.ActivityContext, _: None) -> str:
    if not REPAIRED.exists():
        raise ConnectionError("the carrier does not answer")
    return "carried"


def greet(ctx: task.OrchestrationContext, name: str):
    said = yield ctx.call_activity(say, input=name)
    return said


def waits(ctx: task.OrchestrationContext, _):
    ctx.set_custom_status({"stage": "waiting"})
    data = yield ctx.wait_for_external_event("go")
    return data


def collects(ctx: task.OrchestrationContext, wanted: int):
    seen = []
    while len(seen) < wanted:
        message = yield from wait_for_message(ctx, "item")
        seen.append(message.data)
    return seen


def breaks(ctx: task.OrchestrationContext, _):
    result = yield ctx.call_activity(fragile)
    return result


def quotes(ctx: task.OrchestrationContext, text: str):
    raise ValueError(f"no such order: {text}")
    yield


def regrets(ctx: task.OrchestrationContext, _):
    try:
        yield ctx.call_activity(fragile)
    except task.TaskFailedError:
        yield ctx.create_timer(timedelta(milliseconds=10))
        raise


def journey(ctx: task.OrchestrationContext, _):
    saga = Saga(ctx, "trip")

    def body():
        yield from saga.step(Step("stock", say, "x", compensation=say, keyed=False))
        yield from saga.step(Step("carry", fragile, keyed=False))

    return (yield from saga.run(body()))


def household(ctx: task.OrchestrationContext, _):
    return (yield ctx.call_sub_orchestrator(breaks, instance_id=ctx.instance_id + "-child"))


def family(ctx: task.OrchestrationContext, _):
    yield ctx.create_timer(timedelta(milliseconds=10))
    said = yield ctx.call_sub_orchestrator(greet, input="child", instance_id=ctx.instance_id + "-child")
    ctx.signal_entity(entities.EntityInstanceId("counter", "of-family"), "add", 2)
    return said


class Stock(Entity):
    def receive(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)


class Counter(entities.DurableEntity):
    def add(self, amount: int) -> None:
        self.set_state(self.get_state(int, 0) + amount)
'''

CONFIG = """
engine: {type: embedded, path: .bridge/engine}
workflows: [commanded_flows]
brokers:
  local: {type: local, path: .bridge/broker, partitions: 2}
sources:
  orders: {broker: local, topics: [orders], no_match: dead_letter}
  plain: {broker: local, topics: [plain], codec: json, attributes: {type: "payload.kind"}, no_match: ignore}
routes:
  - name: greet
    from: orders
    match: {type: greeting.asked}
    when: payload.name != ''
    schedule: {orchestration: greet, instance_id: "greet-{{ payload.name }}", input: payload.name}
  - name: nobody
    from: orders
    match: {type: greeting.asked}
    ignore: {reason: nobody to greet}
  - name: go
    from: [orders, plain]
    match: {type: go}
    raise_event: {instance_id: "waits-{{ payload.id }}", name: go, data: payload}
"""


def write_project(directory: Path) -> Path:
    """Write the project. Returns the path of its configuration."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "commanded_flows.py").write_text(FLOWS)
    config = directory / "bridge.yaml"
    config.write_text(CONFIG)
    return config


class EngineThread:
    """Engine and worker of the project, on an event loop in a thread, like a daemon in another process."""

    def __init__(self, directory: Path, keys: Keys = no_keys) -> None:
        self._directory = directory
        self._keys = keys
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="test-host")

    def start(self) -> None:
        self._thread.start()
        assert self._ready.wait(TIMEOUT)

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(TIMEOUT)
        assert not self._thread.is_alive()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        config = EmbeddedEngineConfig(type="embedded")
        engine = EmbeddedEngine("default", config, self._directory / config.path, host=True, keys=self._keys)
        await engine.start()
        known = load(["commanded_flows"], self._directory)
        aware = {name: message_aware(each) for name, each in known.orchestrators.items()}
        worker = engine.worker(replace(known, orchestrators=aware), DataConverter())
        worker.start()
        self._ready.set()
        await self._stop.wait()
        assert await stop_worker(worker, TIMEOUT)
        await engine.stop()
