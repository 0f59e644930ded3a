"""Daemons with two engines, `old` and `new`, between which the instances of a route move."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from durabletask.entities import EntityInstanceId

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.core.message import Message
from bridge.core.system_names import EARLY_MESSAGES, target_key
from bridge.engines.embedded.engine import EmbeddedEngine
from tests.kit.ports import free_address
from tests.kit.waiting import eventually

KINDS = ("embedded to embedded", "embedded to scheduler", "scheduler to scheduler")
"""Kinds of `old` and `new`. The scheduler is an embedded engine behind a port, which outlives the daemons."""

OLD, FIRST, MOVED, NEW = "old", "{start: old, find: [new, old]}", "{start: new, find: [new, old]}", "new"
"""Engines of all routes, in the order of a move."""

STARTS = ("placed", "opened", "replaced", "revived")
"""Kinds of messages that may start an instance."""

FLOWS = """
from durabletask import entities, task

from bridge.workflow import request


def order(ctx: task.OrchestrationContext, order):
    seen = []
    while "end" not in seen:
        event = yield ctx.wait_for_external_event("event")
        seen.append(event["say"] if "say" in event else event)
        ctx.set_custom_status({"seen": list(seen)})
    return {"order": order, "seen": seen}


def asks(ctx: task.OrchestrationContext, order):
    answer = yield from request(ctx, "service", {"n": 1}, type="asked", reply_to="answers")
    return answer


class Counter(entities.DurableEntity):
    def add(self, value):
        self.set_state(self.get_state(int, 0) + value["by"])
"""

CONFIG = """
workflows: [flows]
brokers: {local: {type: local}}
ops: {http: {port: 0}}
defaults: {route: {engine: ENGINE}}
targets: {service: {broker: local, topic: service}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    attributes: {type: "payload.type"}
    identity: "{{ payload.message }}"
    no_match: dead_letter
    retry: {in_memory: 1s}SOURCE
  answers: {broker: local, topics: [answers], codec: json, no_match: dead_letter}
routes:
  - {name: answered, from: answers, reply: {}}
  - name: asking
    from: orders
    match: {type: ask}
    schedule: {orchestration: asks, instance_id: "asks-{{ payload.id }}"}
  - name: placed
    from: orders
    match: {type: placed}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}", input: payload.message}
  - name: replaced
    from: orders
    match: {type: replaced}
    schedule:
      orchestration: order
      instance_id: "order-{{ payload.id }}"
      input: payload.message
      on_existing: restart
  - name: opened
    from: orders
    match: {type: opened}
    start_or_raise: {orchestration: order, instance_id: "order-{{ payload.id }}", event: event, input: payload.message}
  - name: said
    from: orders
    match: {type: said}
    raise_event: {instance_id: "order-{{ payload.id }}", name: event, on_missing: {wait: 1h}}
  - name: revived
    from: orders
    match: {type: revived}
    raise_event: {instance_id: "order-{{ payload.id }}", name: event, on_finished: restart}
  - {name: paused, from: orders, match: {type: paused}, suspend: {instance_id: "order-{{ payload.id }}"}}
  - {name: resumed, from: orders, match: {type: resumed}, resume: {instance_id: "order-{{ payload.id }}"}}
  - {name: killed, from: orders, match: {type: killed}, terminate: {instance_id: "order-{{ payload.id }}"}}
  - name: cancelled
    from: orders
    match: {type: cancelled}
    cancel: {instance_id: "order-{{ payload.id }}", event: event, grace: 1h, reason: because}
  - name: added
    from: orders
    match: {type: added}
    signal_entity: {entity: Counter, key: "{{ payload.id }}", operation: add}
"""


class TwoEngines:
    """Directory of a project with two engines, and its running daemons."""

    def __init__(self, directory: Path, engines: Mapping[str, Any]) -> None:
        self.directory = directory
        self.engines = engines
        self.hosts: dict[str, EmbeddedEngine] = {}
        self.broker = "type: local"
        """Settings of the broker `local`."""

    def write(self, engine: str, source: str = "", name: str = "bridge.yaml") -> Path:
        """Write the configuration. engine: of all routes. source: further settings of the source."""
        path = self.directory / name
        text = CONFIG.replace("ENGINE", engine).replace("SOURCE", source).replace("type: local", self.broker)
        used = {each: settings for each, settings in self.engines.items() if each in engine}
        path.write_text(f"engines: {json.dumps(used)}\n{text}")
        return path

    @asynccontextmanager
    async def daemon(self, engine: str, source: str = "", name: str = "bridge.yaml") -> AsyncIterator[Runs]:
        """Run a daemon."""
        daemon = Daemon(load_config([self.write(engine, source, name)]))
        await daemon.start()
        try:
            yield Runs(daemon)
        finally:
            await daemon.stop(20.0)


class Runs:
    """Running daemon with one or both engines."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def publish(self, kind: str, id_: str, message: str, **more: Any) -> None:
        """Publish a message to the source `orders`, without waiting for its end. message: its identity."""
        data = orjson.dumps({"type": kind, "id": id_, "message": message, **more})
        await self.daemon.brokers["local"].publish("orders", [Message(data, id_.encode(), ())])

    async def send(self, kind: str, id_: str, message: str, **more: Any) -> str:
        """Publish a message and return its outcome."""
        before = self.outcomes()
        await self.publish(kind, id_, message, **more)

        def changed() -> str:
            return next((name for name, count in self.outcomes().items() if count > before.get(name, 0)), "")

        outcome: str = await eventually(changed, lambda: f"an outcome of {kind} {id_}")
        if kind in STARTS:
            # Until a worker has processed the notification of a start, later messages of the instance wait behind it
            await eventually(lambda: self._is_notified(id_), f"the notification of order-{id_}")
        return outcome

    async def _is_notified(self, id_: str) -> bool:
        entity = EntityInstanceId(EARLY_MESSAGES, target_key(f"order-{id_}"))
        found = [await engine.client.find_entity(entity) for engine in self.daemon.engines.values()]
        return not any(each is not None and each.backlog_queue_size for each in found)

    def outcomes(self) -> dict[str, int]:
        ledgers = [source.ledger for source in self.daemon.sources]
        return {str(name): count for ledger in ledgers for name, count in ledger.outcomes.items() if count}

    async def found(self, engine: str, instance_id: str) -> Any:
        """Return the state of an instance on an engine; None when it is not there."""
        return await self.daemon.engines[engine].client.find_instance(instance_id)

    async def status(self, engine: str, instance_id: str) -> str:
        """Return the status of an instance on an engine; empty when it is not there."""
        found = await self.found(engine, instance_id)
        return "" if found is None else str(found.runtime_status.name)

    async def becomes(self, engine: str, instance_id: str, status: str) -> Any:
        """Wait for the status of an instance and return its output."""

        async def has_it() -> bool:
            return await self.status(engine, instance_id) == status

        await eventually(has_it, f"{instance_id} {status} on {engine}")
        found = await self.found(engine, instance_id)
        return json.loads(found.serialized_output) if found.serialized_output else None


@asynccontextmanager
async def two_engines(directory: Path, kind: str = KINDS[0], poll: str = "0.2s") -> AsyncIterator[TwoEngines]:
    """Yield two engines of a kind. poll: of early messages."""
    (directory / "flows.py").write_text(FLOWS)
    async with AsyncExitStack() as stack:
        engines: dict[str, Any] = {}
        hosts = {}
        for name, word in zip(("old", "new"), kind.split(" to "), strict=True):
            engines[name] = {"type": "embedded", "path": name, "early_messages": {"poll": poll}}
            if word == "scheduler":
                address = free_address()
                config = EmbeddedEngineConfig(type="embedded", listen=address)
                host = hosts[name] = EmbeddedEngine("x", config, directory / f"host-{name}", True)
                await host.start()
                stack.push_async_callback(host.stop)
                engines[name] = {
                    "type": "scheduler", "endpoint": f"http://{address}", "early_messages": {"poll": poll}
                }  # fmt: skip
        made = TwoEngines(directory, engines)
        made.hosts = hosts
        yield made
