"""One set of rules over Kafka and Service Bus together, on the brokers themselves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.app.composition import build_broker
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import SubscribeOptions
from bridge.codecs import registry
from bridge.config.model.servicebus import SessionsConfig
from bridge.config.source import Loaded, load
from bridge.core.message import Event
from bridge.testing import LocalBridge
from tests.brokers.consumer import Assignments, take
from tests.brokers.kafka.conftest import bootstrap
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import ServerConfig, ServiceBusServer, emulator

__all__ = ["bootstrap"]

CONFIG = Path(__file__).resolve().parents[2] / "config"
EMULATOR = CONFIG / "servicebus" / "emulator.json"


@pytest.fixture
async def bus() -> AsyncIterator[ServiceBusServer]:
    queues, topics = emulator.read(json.loads(EMULATOR.read_text()))
    async with ServiceBusServer(ServerConfig(queues, topics)) as server:
        yield server
    assert server.counters.crashes == []


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    path = tmp_path / "here.yaml"
    path.write_text(f"engine: {{path: {tmp_path}/engine}}\nops: {{http: {{port: 0}}}}\n")
    return path


def ordered(number: str) -> Event:
    return Event(f"o-{number}", "/shop", "dispatch.ordered", {"number": number, "item": "tea"}, key=number)


def paid(number: str) -> Event:
    return Event(f"p-{number}", "/bank", "dispatch.paid", {"number": number, "amount": 25}, key=number)


async def shipped(loaded: Loaded, broker_name: str, topic: str, count: int) -> list[str | None]:
    """Return the subjects of published messages, read through a separate consumer."""
    broker = build_broker(loaded, broker_name)
    await broker.start()
    sessions = SessionsConfig.model_validate({"idle": "300ms"}) if broker_name == "bus" else None
    subscription = await broker.subscribe(SubscribeOptions((topic,), "follower", sessions=sessions), Assignments())
    codec = registry.get("cloudevents")
    found = []
    for delivery in await take(subscription, count):
        found.append(codec.decode(delivery.message, delivery.position).subject)
        await delivery.complete()
    await broker.stop()
    return sorted(found, key=str)


async def test_ordered_on_kafka_paid_on_service_bus_shipped_on_both(
    bootstrap: str,
    bus: ServiceBusServer,
    overlay: Path,
) -> None:
    environ = {"KAFKA_BOOTSTRAP": bootstrap, "SERVICEBUS_CONNECTION": bus.connection_string}
    loaded = load([CONFIG / "dispatch.yaml"], [overlay], environ=environ)
    daemon = Daemon(loaded)
    codec = registry.get("cloudevents")
    try:
        kafka = build_broker(loaded, "kafka")
        await kafka.start()
        await kafka.publish("dispatch-orders", [codec.encode(ordered("a"))])
        await daemon.start()
        await daemon.brokers["bus"].publish("payments", [codec.encode(paid(number)) for number in ("a", "b")])
        # Payment before the order: the brokers are independent
        await kafka.publish("dispatch-orders", [codec.encode(ordered("b"))])
        async with asyncio.timeout(TIMEOUT * 2):
            assert await shipped(loaded, "kafka", "dispatch-events", 2) == ["a", "b"]
            assert await shipped(loaded, "bus", "warehouse", 2) == ["a", "b"]
        await kafka.stop()
        assert bus.counters.dead_letters == []
    finally:
        await daemon.stop(10)


def test_the_same_rules_in_the_test_kit() -> None:
    with LocalBridge(CONFIG / "dispatch.yaml", environ={}) as bridge:
        bridge.publish("orders", {"number": "a", "item": "tea"}, type="dispatch.ordered", key="a")
        bridge.publish("payments", {"number": "a", "amount": 25}, type="dispatch.paid", key="a")
        assert bridge.result("dispatch-a") == {"number": "a", "item": "tea", "paid": 25}
        assert [event.subject for event in bridge.published("dispatch-events")] == ["a"]
        assert [event.subject for event in bridge.published("dispatch-warehouse")] == ["a"]
