"""Poisoned keys in daemons of this process: quarantined, released, quarantined again, dropped, moved between
members."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.app.composition import load_config
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import SubscribeOptions
from bridge.core.errors import EngineRejected, InstanceNotFound
from bridge.core.message import Message
from bridge.quarantine.operations import QuarantineOperations
from bridge.waiting.operations import WaitingMessage
from tests.kit.listener import NullListener
from tests.kit.pipeline import is_balanced
from tests.kit.waiting import TIMEOUT, eventually

FLOWS = """
from durabletask import task


def collect(ctx: task.OrchestrationContext, count):
    got = []
    for _ in range(count):
        got.append((yield ctx.wait_for_external_event("noted")))
    return got
"""

CONFIG = """
engine: {type: embedded, path: engine}
workflows: [quarantine_flows]
brokers: {local: {type: local, path: broker, partitions: 4}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
    quarantine: {poll: 50ms, max_messages: 5}
    limits: {dead_letter_limit: 4}
routes:
  - name: tell
    from: orders
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload.number, on_missing: dead_letter}
ops: {http: {port: 0}}
"""


def received(id_: str, number: int) -> Message:
    return Message(json.dumps({"id": id_, "number": number}).encode(), id_.encode(), (("type", b"noted"),))


class QuarantineFixture:
    """Daemon with helpers for the tests."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.source = daemon.sources[0]
        self.quarantine = QuarantineOperations(daemon.engines["default"])
        self.client = daemon.engines["default"].client

    async def publish(self, *messages: Message) -> None:
        await self.daemon.brokers["local"].publish("orders", messages)

    async def until(self, condition: Callable[[], Any]) -> None:
        def holds() -> Any:
            found = condition()
            assert is_balanced(self.source.ledger)
            return found

        await eventually(holds)

    async def settled(self, **outcomes: int) -> None:
        await self.until(lambda: all(self.source.ledger.outcomes[name] >= count for name, count in outcomes.items()))

    async def start(self, id_: str, count: int) -> None:
        await self.client.schedule_new_orchestration("collect", input=count, instance_id=f"order-{id_}")

    async def result(self, id_: str) -> Any:
        state = await self.client.wait_for_orchestration_completion(f"order-{id_}", timeout=TIMEOUT)
        assert state is not None
        return state.get_output()

    async def waiting(self, count: int) -> list[WaitingMessage]:
        """Return the waiting messages once there are `count`: an accepted signal may be unprocessed."""
        found: list[WaitingMessage] = []

        async def come() -> bool:
            found[:] = await self.quarantine.list()
            return len(found) == count

        await eventually(come)
        return found

    async def dead_letters(self, count: int) -> list[str]:
        subscription = await self.daemon.brokers["local"].subscribe(
            SubscribeOptions(("orders.dlq",), "r"), NullListener()
        )
        found: list[str] = []
        async with asyncio.timeout(TIMEOUT):
            while len(found) < count:
                received = await subscription.receive(count)
                found += [dict(each.message.headers)["bridge.reason"].decode() for each in received]
        await subscription.close()
        return found


@asynccontextmanager
async def setup(directory: Path, config: str = CONFIG, **options: Any) -> AsyncIterator[QuarantineFixture]:
    (directory / "quarantine_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(config)
    daemon = Daemon(load_config([directory / "bridge.yaml"]), **options)
    await daemon.start()
    try:
        yield QuarantineFixture(daemon)
    finally:
        await daemon.stop(10.0)


async def test_a_key_is_held_with_what_follows_and_other_keys_go_on(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.start("b", 2)
        await it.publish(received("a", 0), received("b", 0), received("a", 1), received("b", 1), received("a", 2))
        assert await it.result("b") == [0, 1]
        await it.settled(quarantined=3, executed=2)
        waiting = await it.waiting(3)
        assert [(each.key, each.reason) for each in waiting] == [
            ("a", "instance_not_found"), ("a", "follows"), ("a", "follows"),
        ]  # fmt: skip
        assert it.source.ledger.outcomes["dead_lettered"] == 0


async def test_release_goes_on_in_order_and_with_what_came_meanwhile(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received("a", number) for number in range(2)))
        await it.settled(quarantined=2)
        await it.start("a", 5)
        await it.quarantine.release("orders", "a")
        await it.publish(*(received("a", number) for number in range(2, 5)))
        assert await it.result("a") == list(range(5))
        await it.until(lambda: it.source.stage is not None and not it.source.stage.key_count)
        assert await it.waiting(0) == []


async def test_one_that_fails_again_is_held_again_in_front_of_the_others(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received("a", number) for number in range(3)))
        await it.settled(quarantined=3)
        await it.quarantine.release("orders", "a")
        await it.settled(quarantined=4)
        await it.publish(received("a", 3))
        await it.settled(quarantined=5)
        await it.until(lambda: it.source.ledger.in_flight == 0)
        waiting = await it.waiting(4)
        assert [each.reason for each in waiting] == ["instance_not_found", "follows", "follows", "follows"]
        await it.start("a", 4)
        await it.quarantine.release("orders", "a")
        assert await it.result("a") == [0, 1, 2, 3]


async def test_dropping_writes_dead_letters(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0), received("a", 1))
        await it.settled(quarantined=2)
        first = (await it.waiting(2))[0]
        change = await it.quarantine.drop("orders", "a", [first.id], forget=False)
        assert (change.before, change.after) == (2, 1)
        assert await it.dead_letters(1) == ["quarantine_dropped"]
        await it.start("a", 1)
        await it.quarantine.release("orders", "a")
        assert await it.result("a") == [1]
        assert await it.waiting(0) == []
        with pytest.raises(InstanceNotFound):
            await it.quarantine.release("orders", "a")


async def test_what_a_daemon_works_on_is_not_dropped(tmp_path: Path) -> None:
    """A dropped message would otherwise be dead-lettered and executed."""
    config = CONFIG.replace("on_missing: dead_letter", "on_missing: retry").replace(
        "    quarantine:", "    retry: {in_memory: 400ms, max_delay: 100ms}\n    quarantine:"
    )
    async with setup(tmp_path, config) as it:
        await it.publish(received("a", 0))
        await it.settled(quarantined=1)
        await it.waiting(1)
        before = it.source.ledger.retries
        await it.quarantine.release("orders", "a")
        await it.until(lambda: it.source.ledger.retries > before)
        with pytest.raises(EngineRejected, match="a daemon works on them"):
            await it.quarantine.drop("orders", "a", [], forget=True)
        await it.start("a", 1)
        assert await it.result("a") == [0]
        assert await it.waiting(0) == []


async def test_more_than_a_key_may_hold_is_dead_lettered(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received("a", number) for number in range(7)))
        await it.settled(quarantined=7)
        assert await it.dead_letters(2) == ["quarantine_full"] * 2


async def test_what_is_held_is_known_again_after_a_restart_before_anything_is_dispatched(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(quarantined=1)
    async with setup(tmp_path) as it:
        await it.start("a", 3)
        await it.publish(received("a", 1))
        await it.settled(quarantined=1)
        await it.quarantine.release("orders", "a")
        await it.publish(received("a", 2))
        assert await it.result("a") == [0, 1, 2]


async def test_a_rule_that_poisons_every_key_exceeds_the_dead_letter_limit(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received(f"k{number}", 0) for number in range(12)))
        await it.until(lambda: it.source.dead_letter_limit.active)
        await it.settled(quarantined=4)
        assert it.source.ledger.outcomes["quarantined"] == 4, "those that were let through"


async def test_a_message_without_a_key_is_dead_lettered_as_ever(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(Message(b'{"id": "a", "number": 0}', None, (("type", b"noted"),)))
        await it.settled(dead_lettered=1)


@pytest.mark.timeout(120)
async def test_another_process_holds_the_key_when_it_gets_the_partition(tmp_path: Path) -> None:
    """Two members of one group share the engine; the key moves with its partition, and back."""
    remote = CONFIG.replace("engine: {type: embedded, path: engine}", "engine: {type: scheduler, endpoint: ENDPOINT}")
    host = CONFIG.replace("path: engine}", 'path: engine, listen: "127.0.0.1:0"}')
    async with setup(tmp_path, host) as first:
        port = first.daemon.engines["default"]._servers[-1].ports[0]  # type: ignore[attr-defined]
        keys = [f"k{number}" for number in range(4)]
        await first.publish(*(received(key, 0) for key in keys))
        await first.settled(quarantined=4)
        other = tmp_path / "other"
        other.mkdir()
        config = remote.replace("ENDPOINT", f'"http://127.0.0.1:{port}"').replace("path: broker", "path: ../broker")
        async with setup(other, config, worker=False) as second:
            await second.until(
                lambda: second.source.assignment and second.source.stage is not None and second.source.stage.ready
            )
            await first.publish(*(received(key, 1) for key in keys))
            await eventually(lambda: sum(g.source.ledger.outcomes["quarantined"] for g in (first, second)) >= 8)
            assert second.source.ledger.outcomes["quarantined"] > 0
            for key in keys:
                await first.start(key, 3)
                await first.quarantine.release("orders", key)
            await first.publish(*(received(key, 2) for key in keys))
            assert [await first.result(key) for key in keys] == [[0, 1, 2]] * 4
