"""`bridge doctor` on a Kafka node with ACLs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.protocol.admin import CreateAclsRequest

from bridge.app.composition import load_config
from bridge.app.doctor import CheckResult, diagnose
from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka.sdk_internals import send
from bridge.core.diagnosis import CheckVerdict
from tests.brokers.consumer import CAUSE, Assignments, numbered, take
from tests.brokers.kafka.harness import KafkaHarness
from tests.kafka.node import Node

pytestmark = [pytest.mark.prove, pytest.mark.timeout(240)]

PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule"
USERS = 'user_admin="secret" user_bridge="secret" user_poor="secret"'


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(
        tmp_path_factory.mktemp("node") / "node",
        listeners={"PLAINTEXT": "PLAINTEXT", "SASL": "SASL_PLAINTEXT"},
        settings={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin",
            "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl.plain.sasl.jaas.config": f"{PLAIN} required {USERS};",
        },
    )
    node.start()
    yield node
    node.kill()


OPERATIONS = {"Read": 3, "Write": 4, "Create": 5, "Describe": 8, "DescribeConfigs": 10}
RESOURCES = {"--topic": 2, "--group": 3, "--cluster": 4}


async def _allow(admin: Any, command: str) -> None:
    """Carry out a printed `kafka-acls` command. The distribution of the tests has no tools."""
    words = shlex.split(command)
    assert words[:2] == ["kafka-acls", "--bootstrap-server"]
    resource = next(word for word in words if word in RESOURCES)
    name = words[words.index(resource) + 1] if resource != "--cluster" else "kafka-cluster"
    principal = words[words.index("--allow-principal") + 1]
    for operation in [after for word, after in pairwise(words) if word == "--operation"]:
        request = CreateAclsRequest(RESOURCES[resource], name, 3, principal, "*", OPERATIONS[operation], 3)
        answer = await send(admin, request)
        assert [each[0] for each in answer.creation_responses] == [0]


def _project(directory: Path, node: Node, user: str, **broker: Any) -> Path:
    config = {
        "engine": {"type": "embedded"},
        "brokers": {
            "kafka": {
                "type": "kafka",
                "bootstrap_servers": f"127.0.0.1:{node.ports['SASL']}",
                "sasl": {"mechanism": "PLAIN", "username": user, "password": "${PASSWORD:-secret}"},
                **broker,
            }
        },
        "sources": {"orders": {"broker": "kafka", "topics": ["orders"], "group": "shop", "no_match": "ignore"}},
        "targets": {"decisions": {"broker": "kafka", "topic": "decisions"}},
    }
    path = directory / "bridge.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def _results(path: Path) -> dict[tuple[str, str], CheckResult]:
    said: list[str] = []
    found = await diagnose(load_config([path]), ("kafka",), 20.0, said.append)
    assert not [
        each for each in found.results if each.verdict in (CheckVerdict.PROBLEM, CheckVerdict.WARNING) and not each.fix
    ]
    return {(each.subject, each.check): each for each in found.results}


@pytest.fixture
async def admin(node: Node) -> Any:
    admin = AIOKafkaAdminClient(bootstrap_servers=node.bootstrap)
    await admin.start()
    yield admin
    await admin.close()


async def _create(admin: Any, **topics: dict[str, str]) -> None:
    known = await admin.list_topics()
    wanted = [NewTopic(name.replace("_", "."), 2, 1, topic_configs=config) for name, config in topics.items()]
    await admin.create_topics([topic for topic in wanted if topic.name not in known])


async def _use_group(node: Node, topic: str, group: str, offset: int = 0) -> None:
    """Commit a position of partition 0 as another program."""
    consumer = AIOKafkaConsumer(bootstrap_servers=node.bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    await consumer.commit({TopicPartition(topic, 0): offset})
    await consumer.stop()


async def test_missing_rights_are_named_with_the_command_that_gives_them(
    node: Node, admin: Any, tmp_path: Path
) -> None:
    await _create(admin, orders={"retention.ms": "604800000"}, orders_dlq={}, decisions={})
    path = _project(tmp_path, node, "bridge")
    found = await _results(path)
    permissions = found["broker kafka", "permissions"]
    assert permissions.verdict is CheckVerdict.PROBLEM
    assert "Read on topic orders missing" in permissions.detail
    assert "Write on topic orders.dlq missing" in permissions.detail
    assert "Write on topic decisions missing" in permissions.detail
    group = found["source orders", "group"]
    assert group.verdict is CheckVerdict.PROBLEM
    assert "Read on group shop missing" in group.detail
    # The commands, run as they are printed, give exactly the missing rights
    for command in [*permissions.fix.splitlines(), *group.fix.splitlines()]:
        await _allow(admin, command)
    found = await _results(path)
    assert found["broker kafka", "permissions"].verdict is CheckVerdict.OK
    # A question about a group must not create the topic of the positions
    assert "no program has used a group" in found["source orders", "group"].detail
    assert "__consumer_offsets" not in await admin.list_topics()
    await _use_group(node, "orders", "other")
    found = await _results(path)
    assert found["source orders", "group"].verdict is CheckVerdict.OK
    assert "is new: it begins at the earliest" in found["source orders", "group"].detail
    # These rights are enough to read, to dead-letter and to publish
    harness = KafkaHarness(f"127.0.0.1:{node.ports['SASL']}")
    sasl = {"mechanism": "PLAIN", "username": "bridge", "password": "secret"}
    broker = await harness.broker(sasl=sasl, create_topics=False)
    trusted = await KafkaHarness(node.bootstrap).broker(create_topics=False)
    await trusted.publish("orders", numbered(3))
    subscription = await broker.subscribe(SubscribeOptions(("orders",), "shop"), Assignments())
    for delivery in await take(subscription, 3):
        await delivery.dead_letter(CAUSE)
    await subscription.flush()
    await broker.publish("decisions", numbered(3))
    # Beside a running consumer: the group is in use, and keeps its member
    beside = (await _results(path))["source orders", "group"]
    assert (beside.verdict, beside.detail) == (CheckVerdict.OK, "group shop: stable, 1 member")
    await harness.stop()
    await trusted.stop()
    assert (await _results(path))["source orders", "positions"].detail.startswith("2 of 2 partitions have a position")
    # The settings of topics need a right that the bridge itself does not need
    retention = found["broker kafka", "retention"]
    assert retention.verdict is CheckVerdict.NOT_CHECKED
    for command in retention.fix.splitlines():
        await _allow(admin, command)
    retention = (await _results(path))["broker kafka", "retention"]
    assert retention.verdict is CheckVerdict.OK
    assert "orders: 7d" in retention.detail


async def test_a_wrong_password_is_named(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "wrong-password")
    found = await _results(_project(tmp_path, node, "bridge"))
    reachable = found["broker kafka", "reachable"]
    assert reachable.verdict is CheckVerdict.PROBLEM
    assert "refused the credentials" in reachable.detail
    assert "wrong-password" not in str(found)
    assert found["broker kafka", "topics"].verdict is CheckVerdict.NOT_CHECKED


async def test_missing_topics_are_not_created(node: Node, admin: Any, tmp_path: Path) -> None:
    path = _project(tmp_path, node, "admin")
    text = path.read_text().replace("orders", "nowhere")
    path.write_text(text)
    found = await _results(path)
    topics = found["broker kafka", "topics"]
    assert topics.verdict is CheckVerdict.PROBLEM
    assert "no topic nowhere" in topics.detail
    assert "--create --topic nowhere" in topics.fix
    path.write_text(text.replace("type: kafka", "type: kafka\n    create_topics: true"))
    assert (await _results(path))["broker kafka", "topics"].verdict is CheckVerdict.OK
    assert not {"nowhere", "nowhere.dlq"} & set(await admin.list_topics())


async def test_a_short_retention_and_lost_positions_are_found(node: Node, admin: Any, tmp_path: Path) -> None:
    await _create(admin, short={"retention.ms": "3600000"}, short_dlq={"cleanup.policy": "compact"})
    producer = AIOKafkaProducer(bootstrap_servers=node.bootstrap)
    await producer.start()
    for number in range(10):
        await producer.send_and_wait("short", str(number).encode(), partition=0)
    await producer.send_and_wait("short", b"future", partition=1, timestamp_ms=int((time.time() + 1800) * 1000))
    await producer.stop()
    await _use_group(node, "short", "shop-short", 3)
    groups = set(await admin.list_consumer_groups())
    path = _project(tmp_path, node, "admin")
    path.write_text(path.read_text().replace("orders", "short").replace("group: shop", "group: shop-short"))
    found = await _results(path)
    assert found["source short", "positions"].verdict is CheckVerdict.OK
    await admin.delete_records({TopicPartition("short", 0): RecordsToDelete(before_offset=7)})
    found = await _results(path)
    positions = found["source short", "positions"]
    assert positions.verdict is CheckVerdict.PROBLEM
    assert "short/0" in positions.detail
    retention = found["broker kafka", "retention"]
    assert retention.verdict is CheckVerdict.PROBLEM
    assert "short.dlq is compacted" in retention.detail
    clock = found["broker kafka", "clock"]
    assert clock.verdict is CheckVerdict.WARNING
    assert "short/1@0" in clock.detail
    # The cluster lists no group of the doctor, and the position has not moved
    assert set(await admin.list_consumer_groups()) == groups
    offsets = await admin.list_consumer_group_offsets("shop-short")
    assert offsets[TopicPartition("short", 0)].offset == 3
