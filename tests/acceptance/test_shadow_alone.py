"""`bridge shadow` without a daemon, on Kafka and on Service Bus: no group, no commit, queues are peeked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from bridge.app.composition import build_broker
from bridge.app.shadow import compare_topics
from bridge.config.source import Loaded, load
from bridge.core.message import Message
from tests.brokers.kafka.harness import unique
from tests.kit.waiting import eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

CONFIG = """
engine: {type: embedded, path: engine}
brokers: {broker: %s}
sources:
  orders: {broker: broker, %s, codec: json, no_match: LIMIT}
routes: []
"""


@pytest.fixture(params=["kafka", "servicebus"])
async def sides(
    request: pytest.FixtureRequest, bootstrap: str, tmp_path: Path
) -> AsyncIterator[tuple[str, str, Loaded, Loaded]]:
    async with AsyncExitStack() as stack:
        topic = unique("shadow")
        if request.param == "kafka":
            broker = f"{{type: kafka, bootstrap_servers: '{bootstrap}', create_topics: true}}"
            text = CONFIG % (broker, f"topics: [{topic}], group: {topic}")
        else:
            server = ServiceBusServer(ServerConfig((QueueConfig(topic),)))
            await stack.enter_async_context(server)
            text = CONFIG % (
                f"{{type: servicebus, connection_string: '{server.connection_string}'}}",
                f"queue: {topic}",
            )
        found = []
        for name, word in (("old.yaml", "dead_letter"), ("new.yaml", "ignore")):
            (tmp_path / name).write_text(text.replace("LIMIT", word))
            found.append(load([tmp_path / name], environ={}))
        yield request.param, topic, found[0], found[1]


async def test_messages_that_arrive(sides: tuple[str, str, Loaded, Loaded], bootstrap: str) -> None:
    kind, topic, old, new = sides
    broker = build_broker(old, "broker")
    await broker.start()
    try:
        await broker.publish(topic, [Message(json.dumps({"n": 0}).encode())])
        counted: list[int] = []
        task = asyncio.create_task(compare_topics(old, new, (), 3600.0, 1.0, counted.append))

        async def arrives() -> int:
            assert not task.done(), task.result()
            await broker.publish(topic, [Message(b'{"n": 1}'), Message(b'{"n": 2}')])
            return len(counted)

        await eventually(arrives, "messages that come after the beginning", poll=0.2)
        task.cancel()
        found = await task
    finally:
        await broker.stop()
    assert found.comparison.different == found.comparison.messages > 0
    assert [group.condition.member for group in found.comparison.groups] == ["no_match"]
    if kind == "kafka":
        assert found.seen == {}
        admin = AdminClient({"bootstrap.servers": bootstrap})  # its answer needs it to live
        groups = admin.list_consumer_groups().result(30).valid
        assert topic not in {group.group_id for group in groups}
    else:
        assert found.seen == {topic: 1.0}
