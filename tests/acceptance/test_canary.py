"""Candidate of three daemons in one group under load: one is killed, one frozen; all fall back together."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bridge.app.connection import attached
from bridge.config.source import load
from tests.acceptance.test_status import PARTITIONS, Topic, topic
from tests.kit.processes import DaemonProcess, bridge, run_bridge
from tests.kit.three_daemons import three_daemons

__all__ = ["topic"]

CONFIG = """
engine: {{type: scheduler, endpoint: "{engine}"}}
workflows: [canary_flows]
brokers:
  kafka: {{type: kafka, bootstrap_servers: "{kafka}", session_timeout: 10s, rebalance_timeout: 8s, create_topics: true}}
sources:
  orders: {{broker: kafka, topics: [{topic}], group: {topic}, codec: json, no_match: dead_letter}}
rules: {{candidate: new/, share: 50%}}
routes:
  - name: start
    from: orders
    start_or_raise:
      orchestration: collect
      instance_id: "of-{{{{ event.key }}}}"
      event: item
      input: payload
      data: payload
ops: {{http: {{port: 0}}}}
"""
FLOWS = """
def collect(ctx, first):
    seen = [first["n"]]
    while seen[-1] >= 0:
        seen.append((yield ctx.wait_for_external_event("item"))["n"])
    return seen
"""
KEYS = 120


def status(directory: Path) -> dict[str, Any]:
    done = run_bridge("canary", "status", "-o", "json", cwd=directory)
    return dict(json.loads(done.stdout)[0]) if done.returncode < 2 else {"fallback": None, "messages": 0}


def outputs(directory: Path) -> dict[str, list[int]]:
    """Output of each instance by its key, over one connection."""

    async def read() -> dict[str, list[int]]:
        found = {}
        async with attached(load([directory / "bridge.yaml"], environ={})) as engine:
            for number in range(KEYS):
                state = await engine.client.get_orchestration_state(f"of-k{number}")
                assert state is not None
                found[f"k{number}"] = json.loads(state.serialized_output or "[]")
        return found

    return asyncio.run(read())


@pytest.fixture
def daemons(tmp_path: Path, topic: tuple[str, Topic]) -> Iterator[tuple[DaemonProcess, ...]]:
    (tmp_path / "new").mkdir()
    (tmp_path / "canary_flows.py").write_text(FLOWS)

    def configure(engine: str) -> None:
        config = CONFIG.format(engine=engine, kafka=topic[0], topic=topic[1].name)
        (tmp_path / "bridge.yaml").write_text(config)
        # The candidate fails for the late messages of each key
        candidate = config.replace(
            "    start_or_raise:", "    when: payload.n < 3 || payload.no_such > 0\n    start_or_raise:"
        )
        (tmp_path / "new" / "bridge.yaml").write_text(candidate)

    with three_daemons(tmp_path, configure, PARTITIONS) as found:
        for each in found:
            each.wait(lambda each=each: "decides about 50%" in each.log.read_text(), "the record of the candidate")  # type: ignore[misc]  # mypy cannot infer it
        yield found


@pytest.mark.timeout(300)
def test_all_daemons_fall_back_and_nothing_is_lost(
    tmp_path: Path, topic: tuple[str, Topic], daemons: tuple[DaemonProcess, ...]
) -> None:
    killed, frozen, lives = daemons
    producer = Producer({"bootstrap.servers": topic[0]})

    def publish(*numbers: int) -> None:
        for number in numbers:
            for key in range(KEYS):
                producer.produce(topic[1].name, json.dumps({"n": number}).encode(), key=f"k{key}".encode())
        assert producer.flush(30) == 0

    publish(0, 1, 2)
    lives.wait(lambda: status(tmp_path)["messages"] > 50, "messages of the candidate")
    assert status(tmp_path)["fallback"] is None
    publish(3)
    killed.kill()
    frozen.signal(signal.SIGSTOP)
    publish(4)
    lives.wait(lambda: status(tmp_path)["fallback"] is not None, "the fallback")
    assert status(tmp_path)["fallback"]["by"] == "bridge"
    lives.wait(lambda: "was ended by bridge" in lives.log.read_text(), "the one that lives applies it")
    frozen.signal(signal.SIGCONT)
    frozen.wait(lambda: "was ended by bridge" in frozen.log.read_text(), "the frozen one applies it")
    publish(-1)
    lives.wait(lambda: sum(each.lag() for each in (frozen, lives)) == 0, "all messages settled")
    exported = map(json.loads, bridge("dlq", "export", "--offline", cwd=tmp_path).splitlines())
    dead = {(each["key"], each["body"]["n"]) for each in exported}
    assert 0 < len(dead) <= 2 * KEYS
    listed = json.loads(bridge("instances", "list", "--limit", "1000", "-o", "json", cwd=tmp_path))
    assert {(each["instance_id"], each["status"]) for each in listed} == {
        (f"of-k{key}", "COMPLETED") for key in range(KEYS)
    }
    for key, output in outputs(tmp_path).items():
        # The killed daemon's messages may come twice; each has its first effect in order, or is a dead letter
        numbers = list(dict.fromkeys(output))
        assert numbers == [n for n in (0, 1, 2, 3, 4, -1) if n in numbers]
        assert {0, 1, 2, 3, 4, -1} - set(numbers) <= {n for name, n in dead if name == key}, (key, numbers)
    for each in (frozen, lives):
        each.stop()
