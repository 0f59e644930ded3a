"""Dead-letter limit of three daemons in one group on one engine: one is frozen, one killed; a person resumes the
source."""

from __future__ import annotations

import json
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses

from tests.kafka.server import ThreadedServer
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.three_daemons import three_daemons

LIMIT = 10
PARTITIONS = 6
LEFT = 4
MORE = 2
PROBES = 6
"""Number of single dead letters during the test: their pauses add up to 63 s."""

CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 6s, rebalance_timeout: 8s}}
sources:
  orders:
    broker: kafka
    topics: [orders]
    group: orders
    codec: json
    no_match: dead_letter
    limits: {{dead_letter_limit: {limit}}}
ops: {{http: {{port: 0}}}}
"""


class Topics:
    """Topic of messages without a route, and topic of their dead letters."""

    def __init__(self, bootstrap: str) -> None:
        admin = AdminClient({"bootstrap.servers": bootstrap})
        topics = [NewTopic("orders", PARTITIONS, 1), NewTopic("orders.dlq", 1, 1)]
        for made in admin.create_topics(topics).values():
            made.result()
        self._producer = Producer({"bootstrap.servers": bootstrap})
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "letters"})

    def publish(self, count: int) -> None:
        for number in range(count):
            self._producer.produce("orders", b"{}", uuid.uuid4().hex.encode(), partition=number % PARTITIONS)
        self._producer.flush(10)

    def dead_letters(self) -> int:
        return int(self._consumer.get_watermark_offsets(TopicPartition("orders.dlq", 0))[1])

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture
def topics() -> Iterator[tuple[str, Topics]]:
    server = ThreadedServer()
    topics = Topics(server.bootstrap)
    yield server.bootstrap, topics
    topics.close()
    server.stop()


def states(daemon: DaemonProcess) -> set[str]:
    return {each["state"] for each in json.loads(daemon.get("/readyz")[1])["components"] if each["kind"] == "source"}


def limited(directory: Path) -> list[str]:
    return [each["source"] for each in json.loads(bridge("sources", "list", "--json", cwd=directory)) if each["pause"]]


@pytest.mark.timeout(240)
def test_a_person_ends_the_limit_for_all_daemons_also_for_one_that_is_frozen(
    tmp_path: Path, topics: tuple[str, Topics]
) -> None:
    kafka, topic = topics

    def configure(engine: str) -> None:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=engine, kafka=kafka, limit=LIMIT))

    with three_daemons(tmp_path, configure, PARTITIONS) as daemons:
        frozen, killed, lives = daemons
        topic.publish(3 * LIMIT + LEFT)
        for each in daemons:
            each.wait(lambda each=each: states(each) == {"probing"}, "probing")  # type: ignore[misc]  # mypy cannot infer it
        lives.wait(lambda: topic.dead_letters() > 3 * LIMIT, "one dead letter beyond the limits of all")
        frozen.signal(signal.SIGSTOP)
        killed.kill()
        assert topic.dead_letters() <= 3 * LIMIT + PROBES
        assert limited(tmp_path) == ["orders"]
        assert "no longer limited" in bridge("sources", "resume", "orders", cwd=tmp_path)
        lives.wait(lambda: "probing" not in states(lives), "the one that lives goes on")
        lives.wait(lambda: topic.dead_letters() >= 3 * LIMIT + LEFT, "all that waited are written")
        frozen.signal(signal.SIGCONT)
        frozen.wait(lambda: "probing" not in states(frozen), "the one that was frozen goes on")
        topic.publish(MORE)
        lives.wait(lambda: topic.dead_letters() >= 3 * LIMIT + LEFT + MORE, "further ones are written at once")
        assert limited(tmp_path) == []
        assert not {"probing"} & (states(lives) | states(frozen))
