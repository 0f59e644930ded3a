"""Replay with three daemons in one group on one engine, of which one is frozen in the middle."""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # the test replaces what the module uses

from bridge.app.composition import load_config
from bridge.app.connection import attached
from bridge.core.origin import read_origin
from bridge.core.system_names import replay_key
from bridge.replay.store import ReplayStore
from tests.acceptance.replays import by_state, items, record
from tests.kafka.server import ThreadedServer
from tests.kit.processes import TIMEOUT, DaemonProcess, bridge
from tests.kit.three_daemons import three_daemons

PARTITIONS, COUNT = 6, 12

FLOWS = """
from bridge.workflow import wait_for_message


def collect(ctx, count):
    got = []
    for _ in range(count):
        got.append((yield from wait_for_message(ctx, "noted")).data)
    return got
"""
CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
workflows: [replay_flows]
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 6s, rebalance_timeout: 8s}}
sources:
  orders:
    broker: kafka
    topics: [orders]
    group: orders
    codec: json
    no_match: dead_letter
    limits: {{dead_letter_limit: 1000}}
routes:
  - name: tell
    from: orders
    raise_event:
      {{instance_id: "order-{{{{ payload.id }}}}", name: noted, data: payload.number, on_missing: dead_letter}}
ops: {{http: {{port: 0}}}}
"""


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_a_frozen_daemon_delays_its_keys_only_until_another_one_has_them(tmp_path: Path) -> None:
    server = ThreadedServer()
    admin = AdminClient({"bootstrap.servers": server.bootstrap})
    for made in admin.create_topics([NewTopic("orders", PARTITIONS, 1), NewTopic("orders.dlq", 2, 1)]).values():
        made.result()
    (tmp_path / "replay_flows.py").write_text(FLOWS)

    def configure(engine: str) -> None:
        (tmp_path / "bridge.yaml").write_text(CONFIG.format(engine=engine, kafka=server.bootstrap))

    with ExitStack() as stack:
        stack.callback(server.stop)
        daemons = stack.enter_context(three_daemons(tmp_path, configure, PARTITIONS))
        frozen, *others = daemons
        producer = Producer({"bootstrap.servers": server.bootstrap})
        for number in range(COUNT):
            for key in range(PARTITIONS):
                body = json.dumps({"id": f"k{key}", "number": number})
                producer.produce("orders", body.encode(), f"k{key}".encode(), partition=key)
        producer.flush(TIMEOUT)
        selected = PARTITIONS * COUNT
        others[0].wait(lambda: sum(each.settled() for each in daemons) == selected, "all are dead letters")
        asyncio.run(start(tmp_path))
        [job] = json.loads(bridge("dlq", "replay", "--all", "--rate", "10", "--yes", "--json", cwd=tmp_path))
        others[0].wait(
            lambda: (now := record(tmp_path, job["job"])) is not None and now.finished >= 10, "some are done"
        )
        partitions = [
            int(re.findall(r'partition="(\d+)"', each)[0]) for each in frozen.metrics("bridge_uncommitted_records")
        ]
        frozen.signal(signal.SIGSTOP)
        unreported = asyncio.run(queued(tmp_path, partitions))
        others[0].wait(
            lambda: (now := record(tmp_path, job["job"])) is not None and now.finished == selected, "all have a result"
        )
        frozen.signal(signal.SIGCONT)
        frozen.wait(lambda: frozen.get("/readyz")[0] == 200, "ready again")
        results = Counter((each.status, each.detail) for each in items(tmp_path, job["job"]))
        assert asyncio.run(outputs(tmp_path)) == [list(range(COUNT))] * PARTITIONS, results
        assert {status for status, _ in results} <= {"succeeded", "duplicate"}, results
        assert by_state(tmp_path) == {("replayed", "instance_not_found"): selected}
        counts = Counter(asyncio.run(raised(tmp_path)))
        assert len(counts) == selected
        repeated = {message: count for message, count in counts.items() if count > 1}
        late = stopped_by_load(frozen)
        assert {each for each in repeated if partition_of(each) not in late} <= unreported, "its result was not stored"
        assert set(repeated.values()) <= {2}, "only the frozen daemon and its successor raise the same message"


def partition_of(message: str) -> int:
    """Partition in the id of a message, which is its position."""
    return int(message.rpartition("/")[2].partition("@")[0])


def stopped_by_load(daemon: DaemonProcess) -> set[int]:
    """Partitions of queues that a daemon had in a call for longer than its claim or its assignment, as a frozen one."""
    lines = [json.loads(line) for line in daemon.log.read_bytes().splitlines() if line.startswith(b"{")]
    if any("records in flight were not settled" in line["event"] for line in lines):
        return set(range(PARTITIONS))
    return {int(line["queue"].split("~")[1]) for line in lines if "claim on a replay queue was lost" in line["event"]}


async def start(directory: Path) -> None:
    async with attached(load_config([directory / "bridge.yaml"])) as engine:
        for key in range(PARTITIONS):
            await engine.client.schedule_new_orchestration("collect", input=COUNT, instance_id=f"order-k{key}")


async def outputs(directory: Path) -> list[object]:
    async with attached(load_config([directory / "bridge.yaml"])) as engine:
        states = [
            await engine.client.wait_for_orchestration_completion(f"order-k{key}", timeout=TIMEOUT)
            for key in range(PARTITIONS)
        ]
        return [None if state is None else state.get_output() for state in states]


async def queued(directory: Path, partitions: list[int]) -> set[str]:
    """Ids of the messages in the replay queues of these partitions: their results are not stored."""
    async with attached(load_config([directory / "bridge.yaml"])) as engine:
        queues = [await ReplayStore(engine).load(replay_key("orders", "orders", each)) for each in partitions]
        return {str(each.message.position) for queue in queues for each in queue.messages}


async def raised(directory: Path) -> list[str]:
    """Ids of the messages in the histories of the instances, with repeats."""
    async with attached(load_config([directory / "bridge.yaml"])) as engine:
        histories = [await engine.client.get_protocol_history(f"order-k{key}") for key in range(PARTITIONS)]
    inputs = [
        event.eventRaised.input.value for history in histories for event in history if event.HasField("eventRaised")
    ]
    return [origin.message_id for text in inputs if (origin := read_origin(text).origin) is not None]
