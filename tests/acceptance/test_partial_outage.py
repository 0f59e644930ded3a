"""Outage of one of two engines: the keys that need it wait in order, and all others go on, also far beyond what fits
into memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bridge.core.message import Message
from tests.acceptance.broker import Log
from tests.kafka.server.server import ThreadedServer
from tests.kit.processes import DaemonProcess, bridge
from tests.kit.waiting import TIMEOUT

CONFIG = """
engines:
  here: {{type: embedded, path: .here}}
  there: {{type: scheduler, endpoint: "{engine}", timeout: 2s}}
workflows: [flows]
brokers: {{main: {broker}}}
sources:
  orders:
    broker: main
    topics: [orders]
    codec: json
    no_match: dead_letter
    retry: {{in_memory: 2m, max_delay: 500ms}}
    quarantine: {{engine: {quarantine}}}
    limits: {{max_in_flight: 40, concurrency: 8, max_gap: {gap}}}
routes:
  - name: retried
    from: orders
    match: {{payload.kind: retried}}
    engine: here
    raise_event: {{instance_id: "{{{{ payload.key }}}}", name: noted, data: payload.number, on_missing: retry}}
  - name: here
    from: orders
    match: {{payload.to: here}}
    engine: here
    raise_event: {{instance_id: "{{{{ payload.key }}}}", name: noted, data: payload.number, on_missing: {{wait: 1h}}}}
  - name: there
    from: orders
    match: {{payload.to: there}}
    engine: there
    raise_event: {{instance_id: "{{{{ payload.key }}}}", name: noted, data: payload.number, on_missing: {{wait: 1h}}}}
ops: {{http: {{port: 0}}}}
"""

FLOWS = """\
from durabletask import task


def collect(ctx: task.OrchestrationContext, count: int):
    found = []
    while len(found) < count:
        found.append((yield ctx.wait_for_external_event("noted")))
    return found
"""

KEYS = 5
COUNT = 60
"""Messages of a key: those of the engine that is away exceed `max_in_flight` several times."""

Publish = Callable[[list[dict[str, Any]]], None]


@pytest.fixture(params=["local", "kafka"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Publish]]:
    """Settings of a broker, and a function that publishes payloads by key."""
    with ExitStack() as stack:
        if request.param == "local":
            settings = "{type: local, path: .broker, partitions: 2}"
            log = Log(tmp_path / ".broker")
            opened = False

            def publish(payloads: list[dict[str, Any]]) -> None:
                nonlocal opened
                if not opened:
                    stack.enter_context(log)
                    opened = True
                log.publish("orders", *(Message(json.dumps(each).encode(), each["key"].encode()) for each in payloads))
        else:
            server = ThreadedServer()
            stack.callback(server.stop)
            admin = AdminClient({"bootstrap.servers": server.bootstrap})
            for made in admin.create_topics([NewTopic("orders", 2, 1), NewTopic("orders.dlq", 1, 1)]).values():
                made.result()
            settings = f'{{type: kafka, bootstrap_servers: "{server.bootstrap}"}}'
            producer = Producer({"bootstrap.servers": server.bootstrap})

            def publish(payloads: list[dict[str, Any]]) -> None:
                for each in payloads:
                    producer.produce("orders", json.dumps(each).encode(), each["key"].encode())
                assert producer.flush(TIMEOUT) == 0

        yield settings, publish


class Fixture:
    """A daemon with an engine of its own, and an engine in another process that can be killed."""

    def __init__(self, directory: Path, stack: ExitStack, broker: str, *, gap: int = 5000, quarantine: str) -> None:
        self._directory, self._stack = directory, stack
        (directory / "flows.py").write_text(FLOWS)
        (directory / "engine").mkdir()
        self.engine = self.start_engine("127.0.0.1:0")
        config = CONFIG.format(engine=self.engine.url, broker=broker, gap=gap, quarantine=quarantine)
        (directory / "bridge.yaml").write_text(config)
        self.daemon = stack.enter_context(DaemonProcess(directory))

    def start_engine(self, address: str) -> DaemonProcess:
        process = DaemonProcess(self._directory / "engine", "--listen", address, "--path", "hubs", command="engine")
        return self._stack.enter_context(process)

    def kill_engine(self) -> None:
        self.engine.kill()

    def restart_engine(self) -> None:
        self.engine = self.start_engine(self.engine.url.partition("//")[2])
        self.daemon.wait(lambda: self.daemon.get("/readyz")[0] == 200, "ready again")

    def start(self, key: str, engine: str, count: int) -> None:
        bridge("instances", "start", "collect", "--id", key, "--input", f"{count}", "--engine", engine,
               cwd=self._directory)  # fmt: skip

    def output(self, key: str, engine: str) -> Any:
        bridge("instances", "wait", key, "--engine", engine, cwd=self._directory)
        return json.loads(bridge("instances", "show", key, "--engine", engine, "--json", cwd=self._directory))["output"]

    def source(self) -> Any:
        [source] = json.loads(bridge("status", "-o", "json", cwd=self._directory, expect=None))["sources"]
        return source


def payloads(prefix: str, to: str, numbers: range) -> list[dict[str, Any]]:
    return [{"key": f"{prefix}{key}", "number": number, "to": to} for number in numbers for key in range(KEYS)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("quarantine", ["here", "there"])
def test_the_routes_of_the_other_engine_go_on(tmp_path: Path, broker: tuple[str, Publish], quarantine: str) -> None:
    settings, publish = broker
    with ExitStack() as stack:
        it = Fixture(tmp_path, stack, settings, quarantine=quarantine)
        for key in range(KEYS):
            it.start(f"t{key}", "there", COUNT)
            if key:  # the events of h0 come early
                it.start(f"h{key}", "here", COUNT)
        half = COUNT // 2
        publish(payloads("t", "there", range(half)) + payloads("h", "here", range(half)))
        settled = 2 * half * KEYS
        it.daemon.wait(lambda: it.daemon.settled() == settled, "both engines answer")

        it.kill_engine()
        publish(payloads("t", "there", range(half, COUNT)))
        mixed = [{"key": "m", "number": number, "to": ("here", "there")[number % 2]} for number in range(6)]
        publish([*mixed, {"key": "q", "to": "here"}, {"key": "q", "to": "here", "number": 1}])
        publish([{"key": "r", "number": number, "kind": "retried"} for number in range(3)])
        publish(payloads("h", "here", range(half, COUNT)))
        it.start("r", "here", 3)
        it.start("h0", "here", COUNT)
        for key in range(KEYS):
            assert it.output(f"h{key}", "here") == [*range(COUNT)]
        assert it.output("r", "here") == [*range(3)]
        # The first message of `m` goes to the engine that answers, the others wait behind the second one
        kept = 2 if quarantine == "here" else 0
        settled += half * KEYS + 3 + 1 + kept
        it.daemon.wait(lambda: it.daemon.settled() == settled, "all that can go on")
        waiting = {labels: count for labels, count in it.daemon.metrics("bridge_outage_waiting_keys").items() if count}
        assert waiting == {'{engine="there",source="orders"}': KEYS + 1 + (0 if kept else 1)}
        source = it.source()
        assert (source["state"], source["held_by"]) == ("held", ["engine there"])
        assert "its routes wait, others continue" in source["detail"]
        assert it.daemon.settled() == settled

        it.restart_engine()
        it.start("m", "there", 3)
        it.start("m", "here", 3)
        for key in range(KEYS):
            assert it.output(f"t{key}", "there") == [*range(COUNT)]
        assert (it.output("m", "here"), it.output("m", "there")) == ([0, 2, 4], [1, 3, 5])
        total = 2 * COUNT * KEYS + 6 + 3 + 2
        it.daemon.wait(lambda: it.daemon.settled() == total, "all are settled")
        assert it.daemon.metrics("bridge_dead_letters_total") == {}
        outcomes = it.daemon.metrics("bridge_outcomes_total")
        assert outcomes['{outcome="quarantined",source="orders"}'] == 2
        assert not any(it.daemon.metrics("bridge_outage_waiting_keys").values())
        assert not any(it.daemon.metrics("bridge_unloaded").values())


@pytest.mark.timeout(300)
def test_a_partition_is_read_up_to_the_gap(tmp_path: Path, broker: tuple[str, Publish]) -> None:
    settings, publish = broker
    with ExitStack() as stack:
        it = Fixture(tmp_path, stack, settings, gap=100, quarantine="here")
        for key in range(KEYS):
            it.start(f"t{key}", "there", COUNT)
            it.start(f"h{key}", "here", 4 * COUNT)
        it.kill_engine()
        publish(payloads("t", "there", range(COUNT)))
        publish(payloads("h", "here", range(4 * COUNT)))
        it.daemon.wait(
            lambda: len(gaps := it.daemon.metrics("bridge_uncommitted_records")) == 2 and min(gaps.values()) >= 100,
            "both partitions are at their limit",
        )
        it.restart_engine()
        for key in range(KEYS):
            assert it.output(f"t{key}", "there") == [*range(COUNT)]
            assert it.output(f"h{key}", "here") == [*range(4 * COUNT)]
        it.daemon.wait(lambda: it.daemon.lag() == 0, "all are settled")
        assert it.daemon.metrics("bridge_dead_letters_total") == {}
