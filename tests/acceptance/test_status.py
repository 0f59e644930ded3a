"""`bridge status` of three daemons in one group: all answer, one is frozen, one is killed."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses

from tests.brokers.kafka.harness import unique
from tests.kit.processes import DaemonProcess, run_bridge
from tests.kit.three_daemons import engine_process, three_daemons
from tests.kit.waiting import TIMEOUT

PARTITIONS = 6
SENT = 30
AGE = 3600

CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 60s, rebalance_timeout: 8s, create_topics: true}}
sources:
  orders: {{broker: kafka, topics: [{topic}], group: {topic}, codec: json, no_match: dead_letter}}
ops: {{http: {{port: 0}}, dead_letters: {{interval: 1s}}}}
"""


class Topic:
    def __init__(self, bootstrap: str) -> None:
        self.name = unique("status")
        admin = AdminClient({"bootstrap.servers": bootstrap})
        admin.create_topics([NewTopic(self.name, PARTITIONS, 1)])[self.name].result(30)
        self._producer = Producer({"bootstrap.servers": bootstrap})

    def publish(self, count: int, written: float | None = None) -> None:
        """Publish the same number of messages to each partition. written: their time, in seconds since the epoch."""
        stamp = int((time.time() if written is None else written) * 1000)
        for number in range(count):
            body = json.dumps({"id": uuid.uuid4().hex}).encode()
            self._producer.produce(self.name, body, partition=number % PARTITIONS, timestamp=stamp)
        assert self._producer.flush(30) == 0


@pytest.fixture
def topic(bootstrap: str) -> tuple[str, Topic]:
    return bootstrap, Topic(bootstrap)


@pytest.fixture
def daemons(tmp_path: Path, topic: tuple[str, Topic]) -> Iterator[tuple[DaemonProcess, ...]]:
    """Three daemons with two partitions each, and the engine behind a port."""

    def configure(engine: str) -> None:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=engine, kafka=topic[0], topic=topic[1].name))

    with three_daemons(tmp_path, configure, PARTITIONS) as found:
        yield found
        for each in found:
            if each.runs:
                each.signal(signal.SIGCONT)
                each.stop()


def of_all(daemon: DaemonProcess) -> dict[str, Any]:
    """Status of all daemons, as one of them tells it."""
    with urllib.request.urlopen(f"{daemon.url}/api/v1/status?daemons=all", timeout=TIMEOUT) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def status(directory: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run_bridge("status", "-o", "json", *arguments, cwd=directory)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(240)
def test_sums_over_daemons_of_which_one_is_frozen(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    frozen, killed, lives = daemons
    urls = [word for each in daemons for word in ("--url", each.url)]
    topic[1].publish(SENT)
    lives.wait(lambda: sum(each.settled() for each in daemons) == SENT, "all settled")
    for each in daemons:
        each.wait(lambda each=each: sum(each.metrics("bridge_dead_letters_open").values()) == SENT, "open dead letters")  # type: ignore[misc]  # mypy cannot infer it
    for arguments in ([], urls):
        code, found = status(tmp_path, *arguments)
        assert (code, found["asked"], found["answered"]) == (1, 3, 3)
        assert [each["next"] for each in found["problems"]] == ["bridge dlq groups orders"]
        assert found["sources"][0]["dead_letters_open"]["count"] == SENT, "each daemon has counted the same"
        assert {each["id"].rpartition("/")[2] for each in found["daemons"]} == {str(each.pid) for each in daemons}
        [source] = found["sources"]
        assert (source["partitions"], source["received"], source["dead_letters"]) == (6, SENT, {"no_route": SENT})
        assert (source["lag"], source["oldest_seconds"], source["in_flight"]) == (0, 0.0, 0)
        assert len(found["engines"]) == 1
    found = of_all(lives)
    assert (found["asked"], found["answered"], found["sources"][0]["received"]) == (3, 3, SENT)
    frozen.signal(signal.SIGSTOP)
    for arguments, name in (([], f"/{frozen.pid}"), (urls, frozen.url)):
        code, found = status(tmp_path, *arguments)
        assert (code, found["asked"], found["answered"]) == (1, 3, 2)
        problem, dead_letters = found["problems"]
        assert dead_letters["next"] == "bridge dlq groups orders"
        assert problem["subject"].endswith(name)
        assert "no answer within 5 s" in problem["text"]
        assert problem["next"]
        assert (found["sources"][0]["partitions"], found["sources"][0]["received"]) == (4, SENT * 2 / 3)
    found = of_all(lives)
    assert (found["asked"], found["answered"], found["sources"][0]["partitions"]) == (3, 2, 4)
    [silent] = [each for each in found["daemons"] if not each["answered"]]
    assert silent["id"].endswith(f"/{frozen.pid}")
    assert silent["next"] == f"kill -CONT {frozen.pid}"
    shown = run_bridge("status", cwd=tmp_path)
    assert shown.returncode == 1
    assert "partial: 2 of 3 daemons answered" in shown.stdout
    frozen.signal(signal.SIGCONT)
    frozen.wait(lambda: status(tmp_path)[1]["answered"] == 3, "the frozen one answers again")
    killed.kill()
    found = of_all(lives)
    assert (found["asked"], found["answered"]) == (3, 2), "the engine still knows the killed one"
    [silent] = [each for each in found["daemons"] if not each["answered"]]
    assert silent["id"].endswith(f"/{killed.pid}")
    assert "has ended" in silent["detail"]
    code, found = status(tmp_path, *urls)
    assert (code, found["asked"], found["answered"]) == (1, 3, 2)
    assert "cannot connect: connection refused" in found["problems"][0]["text"]
    code, found = status(tmp_path)
    assert (found["asked"], found["answered"]) == (2, 2), "the socket of a killed daemon belongs to none"


@pytest.mark.timeout(240)
def test_lag_in_records_and_seconds_also_while_the_engine_is_away(tmp_path: Path, topic: tuple[str, Topic]) -> None:
    """Records of which none can be executed: the oldest one has its age, while the source is held."""
    kafka, records = topic
    with engine_process(tmp_path) as engine:
        config = CONFIG.format(engine=engine.url, kafka=kafka, topic=records.name)
        route = 'routes: [{name: start, from: orders, schedule: {orchestration: x, instance_id: "{{ payload.id }}"}}]\n'
        (tmp_path / "bridge.yaml").write_text(config + "workflows: {external: [x]}\n" + route)
        with DaemonProcess(tmp_path) as daemon:
            engine.kill()
            assert status(tmp_path)[1]["engines"][0]["state"] == "away", "an idle daemon notices it, too"
            records.publish(SENT, time.time() - AGE)
            daemon.wait(lambda: status(tmp_path)[1]["sources"][0]["lag"] == SENT, "the lag")
            ages = daemon.metrics("bridge_oldest_unprocessed_seconds")
            assert len(ages) == PARTITIONS
            assert all(AGE <= each < AGE + 600 for each in ages.values())
            code, found = status(tmp_path)
            [source] = found["sources"]
            assert (source["state"], source["held_by"]) == ("held", ["engine default"])
            assert AGE <= source["oldest_seconds"] < AGE + 600
            assert found["engines"][0]["state"] == "away"
            daemon.stop()
        code, found = status(tmp_path)
        assert code == 1, "the broker can be reached"
        assert (found["asked"], found["sources"][0]["lag"]) == (0, SENT), (
            "without a daemon, by the positions of the group"
        )
        assert found["problems"] == [
            {
                "subject": "daemon",
                "text": "no daemon of this configuration runs on this machine",
                "next": "bridge serve",
            }
        ]
