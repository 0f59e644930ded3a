"""Texts and records that an older build left on brokers and in entities, read by today's code."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import OffsetAndMetadata
from azure.servicebus import ServiceBusMessage

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka.commits import decode_metadata
from bridge.core.message import Message
from bridge.core.provenance import dead_letter
from bridge.core.stored_message import StoredMessage
from tests.brokers.consumer import Assignments, nothing_more, numbers, take
from tests.brokers.kafka.harness import KafkaHarness
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kafka.server import ThreadedServer
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.upgrade.opened import RECORDINGS

every_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.name)


def recorded(recording: Path, name: str) -> Any:
    return json.loads((recording / name).read_text())


@pytest.fixture
async def kafka() -> AsyncIterator[KafkaHarness]:
    server = ThreadedServer()
    harness = KafkaHarness(server.bootstrap)
    yield harness
    await harness.stop()
    server.stop()


def test_there_are_recordings_and_they_are_small() -> None:
    assert [path.name for path in RECORDINGS][:1] == ["v1_ac71ee3"]
    assert sum(path.stat().st_size for folder in RECORDINGS for path in folder.iterdir()) < 2_000_000


@every_recording
def test_commit_metadata_says_the_same(recording: Path) -> None:
    for name, shape in recorded(recording, "kafka.json")["shapes"].items():
        assert decode_metadata(shape["base"], shape["text"]) == shape["done"], name
        assert shape["done"] or name == "none"


@every_recording
async def test_a_group_goes_on_where_it_was(recording: Path, kafka: KafkaHarness) -> None:
    """A plain client commits the recorded position and metadata to a broker, as an older bridge did."""
    state = recorded(recording, "kafka.json")
    await kafka.create_topic("orders", 1)
    broker = await kafka.broker()
    await broker.publish("orders", [Message(b"%d" % number, b"k") for number in range(state["records"])])
    tp = TopicPartition("orders", 0)
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap, group_id="bridge", enable_auto_commit=False)
    await consumer.start()
    consumer.assign([tp])
    await consumer.commit({tp: OffsetAndMetadata(state["offset"], state["metadata"])})
    await consumer.stop()
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "bridge"), Assignments())
    left = sorted(set(range(state["records"])) - set(state["done"]))
    deliveries = await take(subscription, len(left))
    assert numbers(deliveries) == left
    await nothing_more(subscription)
    for delivery in deliveries:
        await delivery.complete()
    await subscription.close()
    [position] = (await broker._cluster.committed("bridge", [tp])).values()
    assert (position.offset, position.metadata) == (state["records"], "")


@every_recording
def test_messages_kept_by_entities_become_the_same_dead_letters(recording: Path) -> None:
    for each in recorded(recording, "letters.json"):
        entry = StoredMessage.from_json(each["letter"])
        cause = entry.cause("parking_expired", "it never came", "Expired", "tell", 4)
        dead = dead_letter(entry.message, entry.position, cause)
        headers = [[name, base64.b64encode(value or b"").decode()] for name, value in dead.headers]
        known = {name for name, _ in each["headers"]}
        assert [header for header in headers if header[0] in known] == each["headers"], each["name"]
        assert entry.to_json() == each["letter"], "what it becomes when the entity is written again"
    messages = [StoredMessage.from_json(each["letter"]).message for each in recorded(recording, "letters.json")]
    assert [each.body for each in messages] == [b'{"id": 1}', b"\xff\x00", None, b""]
    assert [each.key for each in messages] == [b"k", b"\xfe", b"k", None]


@every_recording
async def test_dead_letters_on_service_bus_can_be_replayed(recording: Path, tmp_path: Path) -> None:
    dead_letters = {each["name"]: each for each in recorded(recording, "servicebus.json")}
    queues = (QueueConfig("orders", lock_duration=30),)
    async with ServiceBusServer(ServerConfig(queues)) as server:
        async with Client.from_connection_string(server.connection_string) as client:
            async with client.get_queue_sender("orders") as sender:
                for number, name in enumerate(dead_letters):
                    body = json.dumps({"id": number, "name": name}).encode()
                    properties: dict[str | bytes, Any] = {"type": "start"}
                    message = ServiceBusMessage(body, application_properties=properties, message_id=f"broker-{number}")
                    await sender.send_messages(message)
            async with client.get_queue_receiver("orders") as receiver:
                for _ in dead_letters:
                    [message] = await receiver.receive_messages(1, max_wait_time=10)
                    name = json.loads(b"".join(message.body))["name"]
                    entry = dead_letters[name]
                    await receiver.dead_letter_message(
                        message, reason=entry["reason"], error_description=entry["description"]
                    )
        replay = "    sub_queue: dead_letter\n    trusted: replay\n    dead_letter: buried"
        async with bus_setup(tmp_path, server.connection_string, source=replay) as setup:
            path = "orders/$DeadLetterQueue"
            subscription = await setup.broker.subscribe(SubscribeOptions((path,), dead_letter=None), Assignments())
            for dead in await take(subscription, len(dead_letters)):
                headers = {name: (value or b"").decode() for name, value in dead.message.headers}
                entry = dead_letters[json.loads(dead.message.body or b"")["name"]]
                if entry["name"] == "no room":
                    # This description has no room for the bridge's facts; only the service's own properties remain
                    assert headers["DeadLetterReason"] == entry["reason"]
                    continue
                assert headers["bridge.reason"] == entry["reason"]
                assert headers["bridge.detail"] == entry["detail"]
                assert (headers["bridge.topic"], headers["bridge.offset"]) == ("orders", "41")
                assert headers.get("bridge.message-id") == entry["message_id"]
                if entry["name"] == "too many executed":
                    assert headers["bridge.truncated"] == "executed"
                else:
                    assert headers.get("bridge.executed", "") == ",".join(entry["executed"])
            await subscription.close()
            await setup.source.start()
            await setup.settled(len(dead_letters))
            taken = {command.instance_id for command in setup.faults.taken}  # type: ignore[union-attr]
            started = [
                number for number, name in enumerate(dead_letters) if "start" not in dead_letters[name]["executed"]
            ]
            assert taken == {f"order-{number}" for number in started}
            assert setup.source.ledger.received == len(dead_letters)
            assert "dead_lettered" not in outcomes(setup)
        assert server.counters.crashes == []
