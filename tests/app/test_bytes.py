"""Keys, headers and ids that are not UTF-8: each message has its own instance, on every broker."""

from __future__ import annotations

import json
import uuid
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage

from bridge.app.composition import load_config
from bridge.app.explain import explain
from bridge.core.bytetext import text_of
from bridge.core.message import Message
from bridge.core.origin import unwrap
from tests.brokers.kafka.conftest import bootstrap, harness
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kit.daemon import DaemonFixture, running
from tests.servicebus.sdk import Client
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

__all__ = ["bootstrap", "harness"]

FLOWS = """
from durabletask import task


def note(ctx: task.OrchestrationContext, given):
    return given
"""

SOURCES = """
sources:
  customers: {{broker: local, {where}, codec: json, no_match: dead_letter{more}}}
routes:
  - name: note
    from: customers
    schedule: {{orchestration: note, instance_id: "{id}", input: "{input}"}}
"""

LATIN = tuple(name.encode("latin-1") for name in ("Müller", "Möller", "Mäller"))
NAMES = (*LATIN, "Müller".encode(), b"M\xef\xb7\x90fcller", b"\xff\xff\xff", b"\xfe\xfe\xfe", b"\xef\xbf\xbd", b"plain")
"""Latin-1, UTF-8, text that looks like the form of Latin-1, and the replacement character itself."""


async def inputs(it: DaemonFixture, prefix: str, names: Sequence[bytes]) -> list[Any]:
    found = []
    for name in names:
        state = await it.client.get_orchestration_state(prefix + text_of(name))
        assert state is not None, name
        found.append(state.serialized_input)
    return found


def sources(where: str, instance_id: str, input: str = "payload", more: str = "") -> str:  # noqa: A002 - the key's name
    return SOURCES.format(where=where, id=instance_id, input=input, more=more)


@pytest.mark.parametrize("made_of", ["key", "header"])
async def test_keys_and_headers_of_the_local_broker(tmp_path: Path, made_of: str) -> None:
    template = "c-{{ event.key }}" if made_of == "key" else "c-{{ event.headers['name'] }}"
    async with running(tmp_path, sources("topics: [customers]", template), FLOWS) as it:
        messages = [
            Message(b'"%d"' % n, name if made_of == "key" else None, (("name", name),)) for n, name in enumerate(NAMES)
        ]
        await it.daemon.brokers["local"].publish("customers", messages)
        await it.settled(len(NAMES))
        assert it.outcomes() == {"executed": len(NAMES)}
        assert all(f'"{n}"' in given for n, given in enumerate(await inputs(it, "c-", NAMES)))


async def test_keys_of_kafka(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("customers")
    await harness.create_topic(topic, 3)
    await harness.create_topic(f"{topic}.dlq", 1)
    broker = f'{{type: kafka, bootstrap_servers: "{harness.bootstrap}"}}'
    config = sources(f'topics: [{topic}], group: "{topic}"', "c-{{ event.key }}", more=", start: earliest")
    async with running(tmp_path, config, FLOWS, broker=broker) as it:
        await it.daemon.brokers["local"].publish(topic, [Message(b"1", name) for name in NAMES])
        await it.settled(len(NAMES))
        assert it.outcomes() == {"executed": len(NAMES)}
        await inputs(it, "c-", NAMES)


async def test_ids_of_service_bus(tmp_path: Path) -> None:
    """AMQP binary, UUID and ulong: the text of the id counts, not its type."""
    ids: list[Any] = [b"\xff\xfea", b"\xfe\xffa", "a-ü", uuid.UUID(int=7), 42]
    names = [b"\xff\xfea", b"\xfe\xffa", "a-ü".encode(), str(uuid.UUID(int=7)).encode(), b"42"]
    async with (
        ServiceBusServer(ServerConfig((QueueConfig("customers"),))) as server,
        Client.from_connection_string(server.connection_string) as client,
        client.get_queue_sender("customers") as sender,
    ):
        broker = f'{{type: servicebus, connection_string: "{server.connection_string}"}}'
        async with running(tmp_path, sources("queue: customers", "m-{{ event.id }}"), FLOWS, broker=broker) as it:
            for each in ids:
                message = ServiceBusMessage(b"1", message_id=each)
                await sender.send_messages(message)
            await it.settled(len(ids))
            assert it.outcomes() == {"executed": len(ids)}
            await inputs(it, "m-", names)


async def test_a_replayed_dead_letter_is_the_same_message(tmp_path: Path) -> None:
    config = sources("topics: [customers]", "c-{{ event.key }}", more=', identity: "{{ key }}"')
    replay = "replay: {broker: local, topics: [customers.dlq], codec: json, trusted: replay, no_match: ignore}"
    config = config.replace("routes:", f"  {replay}\nroutes:")
    config = config.replace("from: customers", "from: [customers, replay]\n    when: event.topic == 'customers.dlq'")
    async with running(tmp_path, config, FLOWS) as it:
        await it.daemon.brokers["local"].publish("customers", [Message(b"1", name) for name in NAMES])
        await it.settled(2 * len(NAMES))
        assert it.outcomes() == {"executed": len(NAMES), "dead_lettered": len(NAMES)}
        for name, given in zip(NAMES, await inputs(it, "c-", NAMES), strict=True):
            origin = unwrap(json.loads(given)).origin
            assert origin is not None
            assert origin.message_id == text_of(name)


async def test_rules_reach_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text(
        "engine: {type: embedded}\nbrokers: {local: {type: local}}\nworkflows: {external: [note]}\n"
        + sources(
            "topics: [customers]",
            "c-{{ event.headers_base64.name.replace('/', '_') }}",
            "[event.key_base64, event.headers_base64, event.data_base64, size(base64.decode(event.key_base64))]",
            ", attributes: {subject: key_base64, region: headers_base64.name, kind: data_base64}",
        ).replace("codec: json", "codec: bytes")
    )
    key, value, body = b"M\xfc\0ller", b"\xff\0\xff", b"\0\1\2"
    answer = explain(
        load_config([tmp_path / "bridge.yaml"]),
        "customers",
        Message(body, key, (("name", b"first"), ("name", value), ("name", None), ("gone", None))),
    )
    assert answer.reason is None, answer.detail
    assert answer.envelope is not None
    assert (answer.envelope.subject, answer.envelope.extensions) == (
        b64encode(key).decode(),
        {"region": b64encode(value).decode(), "kind": b64encode(body).decode()},
    )
    (step,) = answer.to_dict()["steps"]
    assert step["command"]["input"] == [
        b64encode(key).decode(),
        {"name": b64encode(value).decode()},
        b64encode(body).decode(),
        7,
    ]
    assert step["command"]["instance_id"] == "c-" + b64encode(value).decode().replace("/", "_")
