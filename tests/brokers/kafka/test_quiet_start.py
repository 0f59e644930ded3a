"""Log of a start: nothing that passes is a warning, and everything else is one."""

from __future__ import annotations

import json
import logging
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import GroupAuthorizationFailedError, GroupCoordinatorNotAvailableError, KafkaError

from bridge.brokers.kafka import sdk_internals
from tests.kafka.node import Node
from tests.kit.processes import DaemonProcess

pytestmark = pytest.mark.long

CONFIG = """
engine: {{type: embedded, path: {name}}}
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{bootstrap}", create_topics: true, request_timeout: 5s}}
sources:
  orders: {{broker: kafka, topics: [orders], group: orders, codec: json, no_match: ignore}}
  others: {{broker: kafka, topics: [others], group: others, codec: json, no_match: ignore}}
targets: {{out: {{broker: kafka, topic: out}}}}
routes: [{{name: all, from: [orders, others], ignore: {{}}}}]
ops: {{http: {{port: 0}}, state_dir: {name}}}
"""


def warnings(daemon: DaemonProcess) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    return [line for line in found if line["level"] in ("warning", "error")]


def has_half(daemon: DaemonProcess) -> bool:
    """Return whether the daemon has half of the partitions of both topics."""
    return len(daemon.metrics("bridge_uncommitted_records")) == 4


@pytest.mark.timeout(240)
def test_a_clean_start_on_a_new_cluster_writes_no_warning_and_an_outage_does(node: Node, tmp_path: Path) -> None:
    """The topics, the topic of positions and the coordinator are made during the start; then a member joins."""
    daemons = []
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "bridge.yaml").write_text(CONFIG.format(name=name, bootstrap=node.bootstrap))
        daemons.append(DaemonProcess(directory))
    first, second = daemons
    with first:
        assert not warnings(first)
        with second:
            for each in daemons:
                each.wait(partial(has_half, each), "half of the partitions")
            second.stop()
        assert not warnings(second)
        assert not warnings(first)
        node.kill()
        first.wait(lambda: warnings(first), "an outage is reported")
        first.stop()


EXPECTED = ("aiokafka.consumer.group_coordinator", "Group Coordinator Request failed: %s")


@pytest.mark.parametrize(
    ("logger", "message", "error", "later", "level"),
    [
        (*EXPECTED, GroupCoordinatorNotAvailableError(), 0.0, "INFO"),
        (*EXPECTED, GroupCoordinatorNotAvailableError(), sdk_internals.STARTING_SECONDS + 1, "ERROR"),
        (*EXPECTED, GroupAuthorizationFailedError("orders"), 0.0, "ERROR"),
        ("aiokafka.cluster", "Topic %s not found in cluster metadata", "orders", 0.0, "INFO"),
        ("aiokafka.cluster", "Topic %s not found in cluster metadata", "orders", 31.0, "ERROR"),
        ("aiokafka.cluster", "Topic %s is not authorized for this client", "orders", 0.0, "ERROR"),
        (EXPECTED[0], "Heartbeat failed for group %s because it is rebalancing", "orders", 3600.0, "INFO"),
    ],
)
async def test_only_passing_states_of_a_start_are_quiet(
    logger: str, message: str, error: KafkaError | str, later: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.levelname)  # type: ignore[method-assign]  # a handler of this test
    logging.getLogger(logger).addHandler(handler)
    try:
        until = time.monotonic() + sdk_internals.STARTING_SECONDS - later
        monkeypatch.setattr(sdk_internals._expected, "until", until)
        logging.getLogger(logger).error(message, error)
    finally:
        logging.getLogger(logger).removeHandler(handler)
    assert seen == [level]
