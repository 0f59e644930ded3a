"""Answers of `bridge trace` about messages of a running daemon, one test for each kind of end."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import load_config
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.trace import Behind, TraceAnswer, TraceResult
from bridge.app.serve.daemon import Daemon
from bridge.app.serve.process import _channel
from bridge.app.trace import trace
from bridge.config.source import Loaded
from bridge.core.errors import EngineOutage
from bridge.core.message import Message
from tests.brokers.kafka.conftest import bootstrap, harness
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.kit.daemon import DaemonFixture, running
from tests.kit.waiting import TIMEOUT, eventually

__all__ = ["bootstrap", "harness"]

FLOWS = """
from bridge.workflow import publish
from durabletask import task


def order(ctx: task.OrchestrationContext, order):
    yield ctx.wait_for_external_event("paid")
    yield publish(ctx, "results", {"id": order["id"]}, type="order.paid")
    return "done"


def shipping(ctx: task.OrchestrationContext, order):
    yield publish(ctx, "results", {"id": order["id"]}, type="order.shipped")


def again(ctx: task.OrchestrationContext, order):
    yield ctx.wait_for_external_event("next")
    ctx.continue_as_new(order)


def counter(ctx, value):
    ctx.set_state((ctx.get_state(int) or 0) + 1)
"""

CONFIG = """
targets: {results: {broker: local, topic: results}}
sources:
  orders: {broker: local, topics: [orders], no_match: ignore, retry: {in_memory: 1h}}
  shipments: {broker: local, topics: [results], no_match: ignore}
  keyed: {broker: local, topics: [keyed], no_match: ignore, quarantine: {poll: 50ms}}
routes:
  - name: start
    from: orders
    match: {type: created}
    schedule: {orchestration: order, instance_id: "order-{{ payload.id }}"}
  - name: pay
    from: orders
    match: {type: paid}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid}
  - name: late
    from: orders
    match: {type: early}
    raise_event: {instance_id: "order-{{ payload.id }}", name: paid, on_missing: {wait: 1h}}
  - name: gone
    from: orders
    match: {type: gone}
    raise_event: {instance_id: "none-{{ payload.id }}", name: x, on_missing: dead_letter}
  - name: count
    from: orders
    match: {type: counted}
    signal_entity: {entity: counter, key: "{{ payload.id }}", operation: add}
  - name: loop
    from: orders
    match: {type: looped}
    schedule: {orchestration: again, instance_id: "loop-{{ payload.id }}"}
  - name: next
    from: orders
    match: {type: next}
    raise_event: {instance_id: "loop-{{ payload.id }}", name: next}
  - name: stop
    from: orders
    match: {type: stopped}
    terminate: {instance_id: "order-{{ payload.id }}"}
  - name: refuse
    from: orders
    match: {type: refused}
    ignore: {}
  - name: ship
    from: shipments
    match: {type: order.paid}
    schedule: {orchestration: shipping, instance_id: "ship-{{ payload.id }}"}
  - name: key
    from: keyed
    match: {type: created}
    raise_event: {instance_id: "none-{{ payload.id }}", name: x, on_missing: dead_letter}
"""


@asynccontextmanager
async def traced(
    directory: Path,
    broker: str = "{type: local, partitions: 1}",
    *,
    config: str = CONFIG,
    flows: str = FLOWS,
    **more: Any,
) -> AsyncIterator[Bridge]:
    """Start a daemon with its control socket."""
    async with running(directory, config, flows, broker=broker, **more) as it:
        channel = await _channel(it.daemon)
        assert channel is not None
        try:
            yield Bridge(it)
        finally:
            await channel.stop()


class Bridge:
    """Daemon, and traces through its sockets, as the command makes them."""

    def __init__(self, it: DaemonFixture) -> None:
        self.it = it
        self.loaded = it.daemon.loaded

    async def send(self, kind: str, id_: str, order: str, topic: str = "orders", count: int = 1) -> None:
        event = {"specversion": "1.0", "id": id_, "source": "/shop", "type": kind, "data": {"id": order}}
        await self.it.publish(topic, event, order, **{"content-type": "application/cloudevents+json"})
        await self.it.settled(count)

    async def find(self, wanted: str) -> TraceResult:
        [found] = await trace(self.loaded, None, [wanted], SearchScope())
        assert not found.silent
        return found.found

    async def answer(self, wanted: str) -> dict[str, Any]:
        """The one answer for an id, without times."""
        [answer] = (await self.find(wanted)).answers
        return plain(answer)

    async def until(self, wanted: str, outcome: str) -> TraceAnswer:
        async def found() -> TraceAnswer | None:
            return next((one for one in (await self.find(wanted)).answers if one.outcome == outcome), None)

        answer: TraceAnswer = await eventually(found, f"{wanted} is {outcome}")
        return answer


def plain(answer: TraceAnswer) -> dict[str, Any]:
    left_out = ("at", "until", "next_try", "config")
    return {name: value for name, value in asdict(answer).items() if value is not None and name not in left_out}


def short(answer: dict[str, Any]) -> str:
    return str(answer["position"]).partition("/")[2]


async def test_executed_and_duplicate(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "1")
        await it.send("created", "c-1", "1", count=2)
        assert it.it.outcomes() == {"executed": 1, "duplicate": 1}
        for wanted in ("/shop c-1", "c-1", "orders/0@0"):
            found = await it.find(wanted)
            assert (found.by, [one.instance_id for one in found.instances]) == ("message", ["order-1"]), wanted
            [answer] = map(plain, found.answers)
            assert short(answer) == "orders/0@0"
            answer.pop("position")
            expected = {"message_id": "/shop c-1", "route": "start", "what": "start", "instance_id": "order-1"}
            assert answer == {"outcome": "executed", **expected}
        second = await it.answer("orders/0@1")
        assert (second["outcome"], short(second)) == ("duplicate", "orders/0@1")
        assert second["duplicate_of"].endswith("/orders/0@0")


async def test_a_signal_and_a_loop_that_forgets_its_history(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("counted", "s-1", "7")
        answer = await it.answer("s-1")
        assert (answer["outcome"], answer["entity"], answer["what"], answer["route"]) == (
            "executed", "@counter@7", "signal add", "count",
        )  # fmt: skip
        await it.send("looped", "l-1", "1", count=2)
        await it.send("next", "n-1", "1", count=3)

        async def reached() -> object:
            return (await it.answer("n-1")).get("detail") is not None

        await eventually(reached)
        forgotten = await it.answer("n-1")
        assert (forgotten["outcome"], forgotten["instance_id"]) == ("executed", "loop-1")
        assert "continued as new" in forgotten["detail"]
        start = await it.answer("l-1")
        assert (start["outcome"], start["instance_id"]) == ("executed", "loop-1")


async def test_a_command_that_no_history_names(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "1")
        await it.send("stopped", "t-1", "1", count=2)
        for wanted in ("t-1", "orders/0@1"):
            answer = await it.answer(wanted)
            assert (answer["outcome"], answer["what"], answer["instance_id"], answer["route"]) == (
                "executed", "terminate", "order-1", "stop",
            )  # fmt: skip


async def test_ignored_by_its_rules(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("refused", "r-1", "1")
        await it.send("unknown", "u-1", "1", count=2)
        by_rule, by_none = await it.answer("orders/0@0"), await it.answer("orders/0@1")
        assert (by_rule["outcome"], by_rule["route"], by_rule["message_id"]) == ("ignored", "refuse", "/shop r-1")
        assert (by_none["outcome"], by_none.get("route")) == ("ignored", None)
        assert "no route matches" in by_none["detail"]
        assert (await it.find("u-1")).by == "nothing", "the broker has no index of ids"
        assert (await it.answer("orders/0@99"))["outcome"] == "not_kept"
        assert (await it.find("elsewhere/0@1")).by == "nothing"


async def test_early(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("early", "e-1", "1")
        for wanted in ("e-1", "/shop e-1", "orders/0@0"):
            answer = await it.until(wanted, "early")
            assert (answer.instance_id, answer.route, answer.source) == ("order-1", "late", "orders")
            assert answer.until is not None
        await it.send("created", "c-1", "1", count=2)
        delivered = await it.until("e-1", "executed")
        assert (delivered.instance_id, delivered.what) == ("order-1", "event paid")
        assert (delivered.position or "").endswith("/orders/0@0")


async def test_quarantined_behind_another(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "k-1", "dock", topic="keyed")
        await it.send("created", "k-2", "dock", topic="keyed", count=2)
        first, second = await it.until("k-1", "quarantined"), await it.until("keyed/0@1", "quarantined")
        assert (first.reason, first.key, first.route) == ("instance_not_found", "dock", "key")
        assert (second.reason, second.message_id) == ("follows", "/shop k-2")
        by_key = await it.find("dock")
        assert [answer.message_id for answer in by_key.answers] == ["/shop k-1", "/shop k-2"]


async def test_dead_lettered_where_and_why(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("gone", "g-1", "1")
        await it.it.daemon.brokers["local"].publish("orders", [Message(b"{broken", b"k")])
        await it.it.settled(2)
        answer = await it.until("g-1", "dead_lettered")
        assert (answer.reason, answer.route, answer.topic, answer.source) == (
            "instance_not_found", "gone", "orders.dlq", "orders",
        )  # fmt: skip
        assert "no such instance" in (answer.detail or "")
        unreadable = await it.answer("orders/0@1")
        assert (unreadable["outcome"], unreadable["reason"]) == ("dead_lettered", "decode_error")


async def test_a_position_in_a_topic_that_no_source_reads(tmp_path: Path) -> None:
    config = CONFIG.replace("topic: results}}", "topic: outcomes}}")
    async with traced(tmp_path, config=config) as it:
        await it.send("gone", "g-1", "1")
        await it.send("created", "c-1", "2", count=2)
        await it.send("paid", "p-1", "2", count=3)
        await it.it.client.wait_for_orchestration_completion("order-2", timeout=TIMEOUT)
        [dead_letter, publication] = [
            (await trace(it.loaded, None, [each], SearchScope()))[0] for each in ("orders.dlq/0@0", "outcomes/0@0")
        ]
        assert (dead_letter.id, dead_letter.found.behind) == (
            "orders.dlq/0@0",
            Behind("dead letter", "orders/0@0", "open"),
        )
        assert [(each.outcome, each.message_id) for each in dead_letter.found.answers] == [
            ("dead_lettered", "/shop g-1")
        ]
        [answer] = publication.found.answers
        assert (answer.outcome, answer.instance_id, answer.topic) == ("published", "order-2", "results")
        assert publication.found.behind == Behind("publication", answer.message_id or "")
        for unknown in ("orders.dlq/0@7", "outcomes/5@0", "elsewhere/0@0"):
            [nothing] = await trace(it.loaded, None, [unknown], SearchScope())
            assert (nothing.found.by, nothing.found.behind) == ("nothing", None)


async def test_retrying_in_the_process_that_has_it(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        event = {"specversion": "1.0", "id": "p-1", "source": "/shop", "type": "paid", "data": {"id": "9"}}
        for id_ in ("p-1", "p-2"):
            await it.it.publish("orders", event | {"id": id_}, "9", **{"content-type": "application/cloudevents+json"})
        for wanted in ("p-1", "orders/0@0", "/shop p-1"):
            answer = await it.until(wanted, "retrying")
            assert (answer.reason, answer.route, answer.key) == ("instance_not_found", "pay", "9")
            assert answer.attempt is not None

        async def reached() -> object:
            return (await it.until("p-1", "retrying")).next_try is not None

        await eventually(reached)
        behind = await it.until("p-2", "queued")
        assert behind.detail == "earlier messages of its key come first"
        assert {answer.message_id for answer in (await it.find("9")).answers} == {"/shop p-1", "/shop p-2"}
        await it.send("created", "c-1", "9", count=0)


async def test_messages_in_flight_are_known_while_the_engine_is_away(tmp_path: Path) -> None:
    async with traced(tmp_path, engine="behind a port") as it:
        host = it.it.host
        assert host is not None
        await host.stop()
        event = {"specversion": "1.0", "id": "a-1", "source": "/shop", "type": "created", "data": {"id": "1"}}
        await it.it.publish("orders", event, "1", **{"content-type": "application/cloudevents+json"})
        await it.it.until(lambda: sum(each.ledger.in_flight for each in it.it.daemon.sources), "received")
        [one, other] = await trace(it.loaded, None, ["orders/0@0", "unknown"], SearchScope())
        assert one.away is not None
        [answer] = one.found.answers
        assert answer.outcome in ("queued", "retrying")
        assert answer.source == "orders"
        assert other.found.answers == ()
        with pytest.raises(EngineOutage):
            await trace(it.loaded, None, ["unknown"], SearchScope())
        await host.start()
        assert (await it.until("a-1", "executed")).instance_id == "order-1"


async def test_a_daemon_that_does_not_answer_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.app.serve.control.FIND_SECONDS", 0.5)
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "1")
        directory = tmp_path / ".bridge" / "control"
        with socket.socket(socket.AF_UNIX) as frozen, socket.socket(socket.AF_UNIX) as dead:
            frozen.bind(str(directory / "1-frozen.sock"))
            frozen.listen()
            dead.bind(str(directory / "2-dead.sock"))  # of a killed daemon: nobody listens
            [found] = await trace(it.loaded, None, ["c-1"], SearchScope())
        assert (found.silent, [answer.outcome for answer in found.found.answers]) == (1, ["executed"])


async def test_up_and_down_through_publications(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "1")
        await it.send("paid", "p-1", "1", count=2)
        await it.it.client.wait_for_orchestration_completion("order-1", timeout=TIMEOUT)

        async def reached() -> object:
            return (await it.find("ship-1")).instances

        await eventually(reached)
        await it.it.client.wait_for_orchestration_completion("ship-1", timeout=TIMEOUT)
        down, up = await it.find("c-1"), await it.find("ship-1")
        assert [one.instance_id for one in down.downstream] == ["ship-1"]
        assert [one.instance_id for one in up.upstream] == ["order-1"]
        [published] = down.instances[0].publications
        answers = [(answer.outcome, answer.instance_id) for answer in (await it.find(published.id)).answers]
        assert sorted(answers) == [("executed", "ship-1"), ("published", "order-1")]


async def test_rows_go_with_their_instance(tmp_path: Path) -> None:
    async with traced(tmp_path) as it:
        await it.send("created", "c-1", "1")
        await it.it.client.terminate_orchestration("order-1")
        assert (await it.find("c-1")).by == "message"
        await it.it.client.purge_orchestration("order-1")
        assert (await it.find("c-1")).by == "nothing"
        [answer] = (await it.find("orders/0@0")).answers
        assert answer.outcome == "not_processed", "its traces are gone, and the broker still has it"


async def test_instances_from_before_the_index_are_searched(tmp_path: Path) -> None:
    async with traced(tmp_path, lineage="off") as it:
        await it.send("created", "c-1", "1")
        without = await it.find("c-1")
        assert (without.index, without.searched, [one.instance_id for one in without.instances]) == (
            "none", 1, ["order-1"],
        )  # fmt: skip
    daemon = await again(tmp_path)
    try:
        it = Bridge(DaemonFixture(daemon, None))
        await it.send("created", "c-2", "2")
        old, new = await it.find("c-1"), await it.find("c-2")
        assert (old.index, old.searched, [one.instance_id for one in old.instances]) == ("partial", 1, ["order-1"])
        assert (new.index, new.searched) == ("partial", 0)
        assert (await it.find("none")).searched == 1, "only older instances are searched"
    finally:
        await daemon.stop(20.0)


async def again(directory: Path) -> Daemon:
    """Start the daemon of a test again, with an index."""
    config = directory / "bridge.yaml"
    config.write_text(config.read_text().replace("index: off", "index: embedded"))
    daemon = Daemon(load_config([config]))
    await daemon.start()
    return daemon


async def test_a_decision_of_an_earlier_configuration(tmp_path: Path) -> None:
    """The rules of that time ignored the message; those of today would execute it."""
    from bridge.app import configurations

    async with traced(tmp_path) as it:
        configurations.store(it.loaded)
        await it.send("refused", "r-1", "1")
    config = tmp_path / "bridge.yaml"
    config.write_text(config.read_text().replace("ignore: {}", "raise_event: {instance_id: x, name: y}"))
    daemon = await again(tmp_path)
    try:
        configurations.store(daemon.loaded)
        answer = await Bridge(DaemonFixture(daemon, None)).find("orders/0@0")
        [ignored] = answer.answers
        assert (ignored.outcome, ignored.route, ignored.config) == ("ignored", "refuse", it.loaded.version)
        assert it.loaded.version != daemon.loaded.version
    finally:
        await daemon.stop(20.0)


async def test_positions_of_kafka(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("orders")
    for name in (topic, f"{topic}.dlq", "keyed", "keyed.dlq", "results", "results.dlq"):
        await harness.create_topic(name, 1)
    broker = f'{{type: kafka, bootstrap_servers: "{harness.bootstrap}"}}'
    config = CONFIG.replace("topics: [orders]", f"topics: [{topic}], group: {topic}, start: earliest")
    for name in ("keyed", "results"):
        config = config.replace(f"topics: [{name}]", f"topics: [{name}], group: {name}")
    async with traced(tmp_path, broker, config=config) as it:
        for id_ in ("c-1", "c-1"):
            await it.send("created", id_, "1", topic=topic, count=0)
        await it.send("refused", "r-1", "1", topic=topic, count=3)
        await it.send("gone", "g-1", "1", topic=topic, count=4)
        executed = await it.answer(f"{topic}/0@0")
        assert (executed["outcome"], short(executed)) == ("executed", f"{topic}/0@0")
        assert (await it.answer(f"{topic}/0@1"))["duplicate_of"] == executed["position"]
        assert (await it.answer(f"{topic}/0@2"))["outcome"] == "ignored"
        assert (await it.answer(f"{topic}/0@3"))["topic"] == f"{topic}.dlq"
        assert (await it.answer("orders/0@2"))["route"] == "refuse", "a source may stand for its topic"


@pytest.mark.parametrize("most", [1, 3])
def test_kept_configurations_are_bounded(tmp_path: Path, most: int) -> None:
    from bridge.app import configurations

    kept = []
    loaded: Loaded | None = None
    for number in range(6):
        (tmp_path / "bridge.yaml").write_text(
            f"engine: {{type: embedded}}\nbrokers: {{local: {{type: local}}}}\nvars: {{n: {number}}}\n"
            f"ops: {{lineage: {{configurations: {most}}}}}\n"
        )
        loaded = load_config([tmp_path / "bridge.yaml"])
        configurations.store(loaded)
        kept.append(loaded.version)
    directory = tmp_path / ".bridge" / configurations.DIRECTORY
    assert loaded is not None
    assert sorted(file.stem for file in directory.glob("*.yaml")) == sorted(kept[-most:])
    assert [start.version for start in configurations.starts(loaded)] == kept[-most:]
    assert oct(directory.stat().st_mode & 0o777) == "0o700"
    assert {oct(file.stat().st_mode & 0o777) for file in directory.iterdir()} == {"0o600"}
