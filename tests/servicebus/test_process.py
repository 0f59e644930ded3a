"""Server as a process of its own, and its control port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from azure.servicebus.exceptions import MessageLockLostError, ServiceBusConnectionError

from tests.docs.document import ROOT
from tests.servicebus.process import ServerProcess
from tests.servicebus.sdk import Client, body, send, take
from tests.servicebus.server import (
    CorrelationFilter,
    FalseFilter,
    QueueConfig,
    Rule,
    SqlFilter,
    SubscriptionConfig,
    TopicConfig,
    emulator,
)
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.encoder import described
from tests.servicebus.server.message import DATA, PROPERTIES, Message

QUEUES = (
    QueueConfig("plain"),
    QueueConfig("all", 1.5, 3, True, 60.0, 0.5, True),
)
TOPICS = (
    TopicConfig(
        "events",
        (
            SubscriptionConfig("everything", lock_duration=2.0, requires_session=True),
            SubscriptionConfig("eu", rules=(Rule("eu", CorrelationFilter({"Label": "x"}, {"region": "eu"})),)),
            SubscriptionConfig("none", rules=(Rule("none", FalseFilter()),)),
        ),
        duplicate_detection=30.0,
        default_ttl=60.0,
    ),
)


async def test_faults_counters_and_contents_from_outside() -> None:
    with ServerProcess(QUEUES, TOPICS) as server:
        async with Client.from_connection_string(server.connection_string, retry_total=0) as client:
            await send(client, "plain", ["1", "2"])
            assert server.contents("plain") == {
                "active": 2,
                "locked": 0,
                "deferred": 0,
                "scheduled": 0,
                "dead_letters": 0,
            }
            server.call("faults.add", step="settle", action="reject", condition="com.microsoft:message-lock-lost")
            async with client.get_queue_receiver("plain") as receiver:
                one, two = await take(receiver, 2)
                with pytest.raises(MessageLockLostError):
                    await receiver.complete_message(one)
                await receiver.dead_letter_message(two, reason="why")
            assert server.call("hits") == [1]
            counters = server.counters()
            assert counters["deliveries"] == {"plain": 2}
            assert counters["settled"] == {"plain dead_letter": 1}
            assert counters["dead_letters"][0]["reason"] == "why"
            assert server.call("faults.lose_locks") == 1
            server.call("server.clear")
            assert server.contents("plain")["active"] == 0
            server.call("server.stop")
            with pytest.raises(ServiceBusConnectionError):
                await send(client, "plain", ["never"])
            server.call("server.start")
            await send(client, "plain", ["3"])
            assert server.contents("plain")["active"] == 1
        with pytest.raises(RuntimeError, match="no call"):
            server.call("faults.__init__")
        with pytest.raises(RuntimeError, match="could not be found"):
            server.contents("nowhere")


async def test_it_ends_with_whoever_started_it() -> None:
    with ServerProcess(QUEUES) as server:
        server.process.close_input()
        assert await server.process.ended() == 0


async def test_it_ends_cleanly_on_a_signal() -> None:
    with ServerProcess(QUEUES) as server:
        server.process.signal(signal.SIGTERM)
        assert await server.process.ended() == 0


def test_a_configuration_is_read_as_it_was_written() -> None:
    document = json.loads(json.dumps(emulator.write(QUEUES, TOPICS)))
    queues, topics = emulator.read(document)
    assert queues == QUEUES
    [topic] = topics
    [everything, eu, none] = topic.subscriptions
    assert (topic.duplicate_detection, topic.default_ttl) == (30.0, 60.0)
    assert (everything, eu) == TOPICS[0].subscriptions[:2]
    assert isinstance(none.rules[0].filter, SqlFilter)
    assert none.rules[0].filter.expression == "1=0"


def test_the_official_form_is_understood() -> None:
    """The document follows the emulator's documentation."""
    document = {
        "UserConfig": {
            "Namespaces": [
                {
                    "Name": "sbemulatorns",
                    "Queues": [
                        {
                            "Name": "queue.1",
                            "Properties": {
                                "DeadLetteringOnMessageExpiration": False,
                                "DefaultMessageTimeToLive": "PT1H",
                                "DuplicateDetectionHistoryTimeWindow": "PT20S",
                                "ForwardDeadLetteredMessagesTo": "",
                                "ForwardTo": "",
                                "LockDuration": "PT1M30S",
                                "MaxDeliveryCount": 3,
                                "RequiresDuplicateDetection": False,
                                "RequiresSession": False,
                            },
                        }
                    ],
                    "Topics": [
                        {
                            "Name": "topic.1",
                            "Properties": {"DefaultMessageTimeToLive": "P14D", "RequiresDuplicateDetection": True},
                            "Subscriptions": [
                                {
                                    "Name": "subscription.1",
                                    "Rules": [
                                        {
                                            "Name": "app-prop-filter-1",
                                            "Properties": {
                                                "FilterType": "Correlation",
                                                "CorrelationFilter": {
                                                    "ContentType": "application/json",
                                                    "Properties": {"prop3": "value3"},
                                                },
                                            },
                                        }
                                    ],
                                },
                                {"Name": "subscription.2"},
                            ],
                        }
                    ],
                }
            ],
            "Logging": {"Type": "File"},
        }
    }
    [queue], [topic] = emulator.read(document)
    assert queue == QueueConfig("queue.1", 90.0, 3, False, 0.0, 3600.0, False)
    assert (topic.duplicate_detection, topic.default_ttl) == (600.0, 14 * 86_400.0)
    assert topic.subscriptions[0].rules[0].filter == CorrelationFilter(
        {"ContentType": "application/json"}, {"prop3": "value3"}
    )
    assert topic.subscriptions[1] == SubscriptionConfig("subscription.2")


@pytest.mark.parametrize("duration", ["1h", "PT1X", "", "-PT1S"])
def test_a_duration_that_is_none_is_said(duration: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        emulator.seconds(duration)


def test_what_does_not_start_is_said() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        ServerProcess(options=("--nonsense",))


async def test_a_message_is_stored_as_it_is() -> None:
    """Sections that the server itself cannot parse are stored as well."""
    stored = Message(described(DATA, encoder.binary(b"x")))
    stored.message_id, stored.session_id = "broken", "s"
    stored.properties = described(PROPERTIES, b"\x99")
    with ServerProcess((QueueConfig("plain"), QueueConfig("sessions", requires_session=True))) as server:
        assert server.store("sessions", stored) == 1
        assert server.contents("sessions")["active"] == 1
        assert server.store("plain", Message(stored.body)) == 1
        async with (
            Client.from_connection_string(server.connection_string) as client,
            client.get_queue_receiver("plain") as receiver,
        ):
            [message] = await take(receiver, 1)
            assert body(message) == "x"
        assert server.counters()["crashes"] == []


@pytest.mark.parametrize(
    ("text", "cause"),
    [(None, "cannot be read: No such file"), ("{", "is no configuration"), ("[]", "is no configuration")],
    ids=["missing", "no JSON", "no object"],
)
def test_a_wrong_file_is_an_error_of_one_line(tmp_path: Path, text: str | None, cause: str) -> None:
    file = tmp_path / "entities.json"
    if text is not None:
        file.write_text(text)
    command = [sys.executable, "-m", "tests.servicebus.server", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert cause in done.stderr
    assert (str(file) in done.stderr, "Traceback" in done.stderr, done.stderr.count("\n")) == (True, False, 1)
