"""Reloads that add, change and remove the candidate under load on Kafka, with a shadow and a tap beside them.

Nothing is lost or doubled, each key keeps its order, and the tap goes on through all of it.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest
from confluent_kafka import Producer

from bridge.app.connection import attached
from bridge.config.source import load
from tests.acceptance.test_status import PARTITIONS, Topic, topic
from tests.kit.forkserver import fork_server
from tests.kit.processes import DaemonProcess, bridge, run_bridge

__all__ = ["topic"]

FLOWS = """
def collect(ctx, first):
    seen = [first["n"]]
    while seen[-1] >= 0:
        seen.append((yield ctx.wait_for_external_event("item"))["n"])
    return seen
"""
CONFIG = """
engine: {{type: embedded}}
workflows: [reload_flows]
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{kafka}", create_topics: true}}}}
sources:
  orders: {{broker: kafka, topics: [{topic}], group: {topic}, codec: json, no_match: dead_letter}}
routes:
  - name: start
    from: orders
    when: payload.n > {least}
    start_or_raise:
      orchestration: collect
      instance_id: "of-{{{{ event.key }}}}"
      event: item
      input: payload
      data: payload
ops: {{http: {{port: 0}}}}
"""
KEYS = 40
CHANGES = (
    ("rules: {candidate: new.yaml, share: 50%}", -10),
    ("rules: {candidate: new.yaml, share: 50%}", -11),
    ("rules: {candidate: new.yaml, share: 100%}", -11),
    ("", -11),
    ("rules: {candidate: new.yaml, share: 30%}", -12),
)
"""Ends of the configuration, and conditions of the candidate, one reload after the other."""


@pytest.mark.timeout(300)
def test_reloads_of_the_candidate_under_load(tmp_path: Path, topic: tuple[str, Topic]) -> None:
    names = {"kafka": topic[0], "topic": topic[1].name}
    config = tmp_path / "bridge.yaml"
    config.write_text(CONFIG.format(least=-9, **names))
    (tmp_path / "reload_flows.py").write_text(FLOWS)
    producer = Producer({"bootstrap.servers": topic[0]})

    expected: dict[str, list[int]] = {}

    def publish(*numbers: int, prefix: str = "k") -> None:
        for number in numbers:
            for key in (f"{prefix}{number}" for number in range(KEYS)):
                producer.produce(topic[1].name, json.dumps({"n": number}).encode(), key=key.encode())
                expected.setdefault(key, []).append(number)
        producer.flush(30)

    out, err = tmp_path / "tap.out", tmp_path / "tap.err"
    with DaemonProcess(tmp_path) as daemon, out.open("wb") as stdout, err.open("wb") as stderr:
        daemon.wait(lambda: len(daemon.metrics("bridge_lag")) == PARTITIONS, "partitions")
        tap = fork_server().start(["tap", "-o", "json", "--rate", "1000/s"], tmp_path, stdout=stdout, stderr=stderr)
        daemon.wait(lambda: "watching daemon" in err.read_text(), "the tap")
        published, versions = 0, set()
        for turn, (rules, least) in enumerate(CHANGES):
            publish(published, published + 1)
            published += 2
            (tmp_path / "new.yaml").write_text(CONFIG.format(least=least, **names))
            config.write_text(CONFIG.format(least=-9, **names) + f"{rules}\n")
            [answer] = json.loads(bridge("reload", "-o", "json", cwd=tmp_path))["daemons"]
            assert (answer["result"], {each["change"] for each in answer["sources"]}) == ("reloaded", {"unchanged"})
            publish(published)
            published += 1
            if rules:
                [found] = json.loads(run_bridge("canary", "status", "-o", "json", cwd=tmp_path).stdout)
                versions.add(found["candidate"])
                # The candidate of this version decides before the next change
                daemon.wait(lambda v=found["candidate"]: f"candidate {v} decides" in daemon.log.read_text(), "active")  # type: ignore[misc]  # mypy cannot infer it
            # Instances follow the rules that started them: only new ones can belong to the new candidate
            publish(0, 1, -1, prefix=f"r{turn}-")
        assert len(versions) == 3
        publish(published, published + 1)
        published += 2
        publish(-1)
        total = sum(map(len, expected.values()))
        daemon.wait(lambda: daemon.settled() == total, "all messages")
        daemon.wait(lambda: not any(daemon.metrics("bridge_lag").values()), "no lag")

        def lines() -> list[dict[str, str]]:
            # The last line may be incomplete
            return [json.loads(line) for line in out.read_text().splitlines() if line.endswith("}")]

        daemon.wait(lambda: len(lines()) == total, "all lines of the tap")
        tap.send_signal(signal.SIGINT)
        assert tap.wait(60) == 0
        assert {each["outcome"] for each in lines()} == {"executed"}
        assert versions < {each["rules"] for each in lines()}

        async def outputs() -> dict[str, list[int]]:
            found = {}
            async with attached(load([config], environ={})) as engine:
                for key in expected:
                    state = await engine.client.get_orchestration_state(f"of-{key}")
                    assert state is not None
                    found[key] = json.loads(state.serialized_output or "[]")
            return found

        daemon.wait(lambda: all(asyncio.run(outputs()).values()), "the ends")
        assert asyncio.run(outputs()) == expected
        daemon.stop()
