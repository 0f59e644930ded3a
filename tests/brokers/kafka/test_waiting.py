"""Kafka messages that wait on the engine: dead letters go to Kafka, and a poisoned key survives a rebalance."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import SubscribeOptions
from bridge.core.message import Message
from bridge.quarantine.operations import QuarantineOperations
from tests.kit.listener import NullListener
from tests.kit.waiting import TIMEOUT, eventually

FLOWS = """
from durabletask import task


def order(ctx: task.OrchestrationContext, count):
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("paid")))
    return got
"""

CONFIG = """
engine: {{{engine}}}
workflows: [waiting_flows]
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true}}}}
sources:
  orders:
    broker: kafka
    topics: [{topic}]
    group: {topic}
    codec: json
    no_match: dead_letter
    attributes: {{type: "headers['type']"}}
    quarantine: {{poll: 100ms}}
routes:
  - name: paid
    from: orders
    match: {{type: paid}}
    raise_event: {{instance_id: "order-{{{{ payload.id }}}}", name: paid, data: payload.n, on_missing: {{wait: 2s}}}}
  - name: noted
    from: orders
    match: {{type: noted}}
    raise_event: {{instance_id: "order-{{{{ payload.id }}}}", name: paid, data: payload.n, on_missing: dead_letter}}
ops: {{http: {{port: 0}}}}
"""


def message(kind: str, id_: str, number: int) -> Message:
    body = json.dumps({"id": id_, "n": number}).encode()
    return Message(body, id_.encode(), (("type", kind.encode()), ("trace", b"\xff")))


async def daemon(directory: Path, bootstrap: str, topic: str, engine: str, **options: Any) -> Daemon:
    directory.mkdir(exist_ok=True)
    (directory / "waiting_flows.py").write_text(FLOWS)
    config = directory / "bridge.yaml"
    config.write_text(CONFIG.format(engine=engine, bootstrap=bootstrap, topic=topic))
    made = Daemon(load_config([config]), **options)
    await made.start()
    return made


@pytest.mark.timeout(180)
async def test_the_dead_letter_of_one_that_waited_in_vain(tmp_path: Path, bootstrap: str) -> None:
    topic = f"waiting-{uuid4().hex[:8]}"
    it = await daemon(tmp_path / "one", bootstrap, topic, "type: embedded")
    try:
        broker = it.brokers["kafka"]
        sent = message("paid", "1", 7)
        await broker.publish(topic, [sent])
        await eventually(lambda: it.sources[0].ledger.outcomes["early"] == 1)
        await eventually(lambda: it.own.dead_letters.written["orders", "early_expired"] == 1)
        subscription = await broker.subscribe(SubscribeOptions((f"{topic}.dlq",), f"{topic}-reader"), NullListener())
        async with asyncio.timeout(TIMEOUT):
            (delivery,) = await subscription.receive(1)
        dead_letter = delivery.message
        headers = dict(dead_letter.headers)
        assert (dead_letter.body, dead_letter.key, headers["trace"]) == (sent.body, sent.key, b"\xff")
        assert (headers["bridge.reason"], headers["bridge.route"]) == (b"early_expired", b"paid")
        assert headers["bridge.topic"] == topic.encode()
        await subscription.close()
    finally:
        await it.stop(20.0)


@pytest.mark.timeout(240)
async def test_a_poisoned_key_is_held_by_whoever_has_its_partition(tmp_path: Path, bootstrap: str) -> None:
    topic = f"waiting-{uuid4().hex[:8]}"
    first = await daemon(tmp_path / "one", bootstrap, topic, 'type: embedded, listen: "127.0.0.1:0"')
    second = None
    try:
        port = first.engines["default"]._servers[-1].ports[0]  # type: ignore[attr-defined]
        broker = first.brokers["kafka"]
        keys = [f"k{number}" for number in range(6)]
        await broker.publish(topic, [message("noted", key, 0) for key in keys])
        await eventually(lambda: first.sources[0].ledger.outcomes["quarantined"] == len(keys))
        remote = f'type: scheduler, endpoint: "http://127.0.0.1:{port}"'
        second = await daemon(tmp_path / "two", bootstrap, topic, remote, worker=False)
        both = (first.sources[0], second.sources[0])
        await eventually(lambda: both[1].assignment and both[1].stage.ready)
        await broker.publish(topic, [message("noted", key, 1) for key in keys])
        await eventually(lambda: sum(source.ledger.outcomes["quarantined"] for source in both) == 2 * len(keys))
        client = first.engines["default"].client
        quarantine = QuarantineOperations(first.engines["default"])

        async def reached() -> object:
            return len(await quarantine.list()) >= 2 * len(keys)

        await eventually(reached)
        for key in keys:
            await client.schedule_new_orchestration("order", input=3, instance_id=f"order-{key}")
            await quarantine.release("orders", key)
        await broker.publish(topic, [message("noted", key, 2) for key in keys])
        for key in keys:
            state = await client.wait_for_orchestration_completion(f"order-{key}", timeout=TIMEOUT)
            assert state is not None
            assert state.get_output() == [0, 1, 2]
    finally:
        if second is not None:
            await second.stop(20.0)
        await first.stop(20.0)
