"""SIGKILL of daemons, engine, broker and commands during the replay of 5,000 of 10,000 dead letters, on each broker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.channel import LocalChannel
from tests.acceptance.replays import BrokerProcess, Load, replayed_while_killed
from tests.brokers.kafka.channel import KafkaChannel
from tests.brokers.servicebus.channel import bus_channel
from tests.kafka.distribution import KafkaMissing, classpath, java
from tests.kafka.node import Node
from tests.kafka.server import ThreadedServer

pytestmark = [pytest.mark.prove, pytest.mark.timeout(900)]

LOAD = Load(keys=250, count=20, others=2500, newcomers=20)
KILLS = 5
RATE = 250


def test_one_daemon_with_an_embedded_engine_on_the_local_broker(tmp_path: Path) -> None:
    with LocalChannel(tmp_path / "broker") as channel:
        replayed_while_killed(tmp_path, channel, LOAD, kills=KILLS, rate=RATE)


def test_three_daemons_on_kafka(tmp_path: Path) -> None:
    """Without Java the small server, which has no disk, stands in for Kafka and is not killed."""
    try:
        java()
        classpath()
    except KafkaMissing:
        server = ThreadedServer()
        replayed_while_killed(tmp_path, KafkaChannel(server.bootstrap), LOAD, kills=KILLS, rate=RATE, daemons=3)
        server.stop()
        return
    node = Node(tmp_path / "node")
    node.start()
    broker = BrokerProcess(node.kill, node.start)
    try:
        channel = KafkaChannel(node.bootstrap)
        replayed_while_killed(tmp_path, channel, LOAD, kills=KILLS, rate=RATE, daemons=3, broker=broker)
    finally:
        node.kill()


def test_three_daemons_on_service_bus(tmp_path: Path) -> None:
    """The test server has no disk: it resets its connections and keeps its messages."""
    with bus_channel() as channel:
        broker = BrokerProcess(lambda: channel.server.call("server.stop"), lambda: channel.server.call("server.start"))
        replayed_while_killed(tmp_path, channel, LOAD, kills=KILLS, rate=RATE, daemons=3, broker=broker)
