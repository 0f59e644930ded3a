"""Dead letters replayed into daemons of this process, by jobs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from durabletask.entities import EntityInstanceId

from bridge.app.composition import load_config
from bridge.app.operations.dead_letters.replays import why_waiting
from bridge.app.serve.daemon import Daemon
from bridge.brokers.base import ReadableBroker, ReadOptions
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message
from bridge.core.states import JobState
from bridge.core.system_names import REPLAY
from bridge.dead_letters.store import DeadLetterStates
from bridge.engines.entities.source_entities import Pause, SourcePauses
from bridge.jobs.kind import JobRequest
from bridge.jobs.store import JobItem, JobStore
from bridge.quarantine.operations import QuarantineOperations
from bridge.replay.entity import ReplayEntities
from bridge.replay.feed import ReplayFeed, _QueueHere
from bridge.replay.kind import REPLAY_KIND
from bridge.replay.store import QueueState, ReplayStore
from tests.kit.pipeline import is_balanced
from tests.kit.processes import sidecar
from tests.kit.waiting import TIMEOUT, eventually
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer

pytestmark = pytest.mark.long

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
workflows: [replay_flows]
brokers: {local: {type: local, path: broker, partitions: 4}}
sources:
  orders:
    broker: local
    topics: [orders]
    codec: json
    no_match: dead_letter
    attributes: {type: "headers['type']"}
routes:
  - name: tell
    from: orders
    raise_event: {instance_id: "order-{{ payload.id }}", name: noted, data: payload.number, on_missing: dead_letter}
ops: {http: {port: 0}}
"""
WAITS = CONFIG.replace("on_missing: dead_letter", "on_missing: {wait: 1h}")


def received(id_: str, number: int) -> Message:
    return Message(json.dumps({"id": id_, "number": number}).encode(), id_.encode(), (("type", b"noted"),))


class ReplayFixture:
    """Daemon with helpers for the tests."""

    def __init__(self, daemon: Daemon, dead_letters: str = "orders.dlq") -> None:
        self.daemon = daemon
        self.place = dead_letters
        self.source = daemon.sources[0]
        self.engine = daemon.engines["default"]
        self.client = self.engine.client
        self.jobs = JobStore(self.engine)

    async def publish(self, *messages: Message) -> None:
        await self.daemon.brokers["local"].publish("orders", messages)

    async def until(self, condition: Callable[[], Any]) -> None:
        def holds() -> Any:
            assert is_balanced(self.source.ledger)
            return condition()

        await eventually(holds)

    async def settled(self, **outcomes: int) -> None:
        await self.until(lambda: all(self.source.ledger.outcomes[name] >= count for name, count in outcomes.items()))

    async def pause(self) -> None:
        await SourcePauses(self.engine).pause("orders", Pause(0.0, "a person"))
        await self.until(lambda: self.source.paused)

    async def start(self, id_: str, count: int) -> None:
        await self.client.schedule_new_orchestration("collect", input=count, instance_id=f"order-{id_}")

    async def result(self, id_: str) -> Any:
        state = await self.client.wait_for_orchestration_completion(f"order-{id_}", timeout=TIMEOUT)
        assert state is not None
        return state.get_output()

    async def dead_letters(self) -> list[tuple[DeadLetter, Message]]:
        broker = self.daemon.brokers["local"]
        assert isinstance(broker, ReadableBroker)
        return [(dead_letter.read(message, at), message) async for at, message in broker.read(ReadOptions(self.place))]

    async def until_dead_letters(self, count: int) -> list[tuple[DeadLetter, Message]]:
        """Dead letters, once there are so many."""

        async def enough() -> object:
            found = await self.dead_letters()
            return found if len(found) >= count else None

        found: list[tuple[DeadLetter, Message]] = await eventually(enough)
        return found

    async def replay(self, ids: Sequence[str], **options: Any) -> str:
        """Submit a job that replays dead letters; return its id."""

        async def items() -> AsyncIterator[str]:
            for each in ids:
                yield each

        arguments = {"broker": "local", "sources": ["orders"]} | options.pop("arguments", {})
        request = JobRequest(REPLAY_KIND, arguments, follow=options.pop("follow", 0.0), **options)
        submitted = await self.jobs.submit(request, items(), None)
        assert submitted is not None
        return submitted[0]

    async def ended(self, job: str) -> list[JobItem]:
        """Items of a job after its end."""

        async def reached() -> object:
            return (await self.jobs.record(job)).state is JobState.DONE

        await eventually(reached)
        return await self.items(job)

    async def items(self, job: str) -> list[JobItem]:
        return [each async for each in self.jobs.items(job)]

    async def with_status(self, job: str, status: str, count: int) -> list[JobItem]:
        """Items of a job, once so many have this status."""

        async def reached() -> object:
            return sum(each.status == status for each in await self.items(job)) >= count

        await eventually(reached)
        return await self.items(job)

    async def queued(self) -> int:
        """Number of messages in all replay queues."""
        store = ReplayStore(self.engine)
        return sum([len((await store.load(key)).messages) for key in await store.list()])

    async def states(self) -> Counter[str]:
        topic = await DeadLetterStates(self.engine).topic("local", self.place)
        return Counter(
            topic.state(entry.position.partition, entry.position.offset).value for entry, _ in await self.dead_letters()
        )


@asynccontextmanager
async def setup(directory: Path, config: str = CONFIG, **options: Any) -> AsyncIterator[ReplayFixture]:
    (directory / "replay_flows.py").write_text(FLOWS)
    (directory / "bridge.yaml").write_text(config)
    daemon = Daemon(load_config([directory / "bridge.yaml"]), **options)
    await daemon.start()
    try:
        yield ReplayFixture(daemon)
    finally:
        await daemon.stop(10.0)


def by_origin(dead_letters: Sequence[tuple[DeadLetter, Message]]) -> list[str]:
    """Ids of dead letters in the order of their originals."""
    found = sorted((each for each, _ in dead_letters), key=lambda each: (each.origin.partition, each.origin.offset))
    return [each.id for each in found]


async def test_dead_letters_are_executed_in_order_and_new_ones_are_untouched(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received(id_, number) for number in range(3) for id_ in "ab"))
        await it.settled(dead_lettered=6)
        dead_letters = await it.dead_letters()
        await it.publish(received("a", 7))
        await it.settled(dead_lettered=7)
        for id_ in "ab":
            await it.start(id_, 3)
        job = await it.replay(by_origin(dead_letters))
        items = await it.ended(job)
        assert {each.status for each in items} == {"succeeded"}, items
        assert [await it.result(id_) for id_ in "ab"] == [[0, 1, 2]] * 2
        assert await it.states() == {"replayed": 6, "open": 1}
        assert it.source.ledger.outcomes["executed"] == 6
        again = await it.ended(await it.replay(by_origin(dead_letters)))
        assert {(each.status, each.detail) for each in again} == {("skipped", f"replayed by job {job}")}
        assert is_balanced(it.source.ledger)


async def test_a_message_that_fails_again_is_another_dead_letter(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        [(first, original)] = await it.dead_letters()
        job = await it.replay([first.id])
        [item] = await it.ended(job)
        assert item.status == "failed"
        assert item.detail.startswith("same cause: instance_not_found: ")
        dead_letters = await it.until_dead_letters(2)
        again, message = max(dead_letters, key=lambda each: each[0].replays)
        assert (again.replays, again.message_id, again.origin) == (1, first.message_id, first.origin)
        assert (again.fingerprint, again.route, message.body) == (first.fingerprint, "tell", original.body)
        headers, before = dict(message.headers), dict(original.headers)
        assert headers["bridge.job"] == job.encode()
        assert headers["bridge.first-failed-at"] == before["bridge.first-failed-at"]
        assert await it.states() == {"returned": 1, "open": 1}


async def test_the_guard_stops_loops_unless_a_person_insists(tmp_path: Path) -> None:
    config = CONFIG.replace("    attributes:", "    limits: {max_replays: 1}\n    attributes:")
    async with setup(tmp_path, config) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        [(first, _)] = await it.dead_letters()
        await it.ended(await it.replay([first.id]))
        dead_letters = await it.until_dead_letters(2)
        second = max((each for each, _ in dead_letters), key=lambda each: each.replays)
        [item] = await it.ended(await it.replay([second.id]))
        assert (item.status, item.detail) == ("skipped", "1 replay has failed (limits.max_replays 1); use --force")
        await it.start("a", 1)
        [item] = await it.ended(await it.replay([second.id], arguments={"force": True}))
        assert item.status == "succeeded"
        assert await it.result("a") == [0]


async def test_what_is_gone_or_unknown_is_skipped_with_the_reason(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        [(first, message)] = await it.dead_letters()
        foreign = [(name, value) for name, value in message.headers if name != "bridge.source"]
        await it.daemon.brokers["local"].publish(
            "orders.dlq", [Message(message.body, message.key, (*foreign, ("bridge.source", b"other")))]
        )
        unknown = next(entry.id for entry, _ in await it.dead_letters() if entry.source == "other")
        gone = f"{first.id.rpartition('@')[0]}@99"
        items = {each.id: each for each in await it.ended(await it.replay([gone, unknown]))}
        assert items[gone].detail == "the topic has it no longer (retention, compaction or another program)"
        assert items[unknown].detail == "there is no source 'other'"
        assert {each.status for each in items.values()} == {"skipped"}
        assert await it.states() == {"open": 2}


async def test_executed_routes_are_skipped(tmp_path: Path) -> None:
    config = CONFIG.replace(
        "routes:",
        "routes:\n  - name: first\n    from: orders\n    continue: true\n"
        '    raise_event: {instance_id: "first-{{ payload.id }}", name: noted, data: payload.number}',
    )
    async with setup(tmp_path, config) as it:
        await it.client.schedule_new_orchestration("collect", input=2, instance_id="first-a")
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        [(entry, _)] = await it.dead_letters()
        assert entry.executed == ("first",)
        await it.start("a", 1)
        [item] = await it.ended(await it.replay([entry.id]))
        assert item.status == "succeeded"
        assert await it.result("a") == [0]
        await it.client.raise_orchestration_event("first-a", "noted", data="last")
        state = await it.client.wait_for_orchestration_completion("first-a", timeout=TIMEOUT)
        assert state is not None
        assert state.get_output() == [0, "last"]


async def test_early_messages_are_followed_until_they_are_delivered_or_expire(tmp_path: Path) -> None:
    config = WAITS.replace("wait: 1h", "wait: 4s")
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0), received("b", 0))
        await it.settled(dead_lettered=2)
        ids = by_origin(await it.dead_letters())
    async with setup(tmp_path, config) as it:
        job = await it.replay(ids, follow=600.0)
        await it.with_status(job, "early", 2)
        await it.start("a", 1)
        items = {each.status: each.detail for each in await it.ended(job)}
        assert items.keys() == {"succeeded", "failed"}
        assert items["failed"].startswith("new cause: early_expired: ")
        assert await it.result("a") == [0]
        assert await it.states() == {"replayed": 1, "returned": 1, "open": 1}


async def test_a_quarantined_key_is_joined_and_followed(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        ids = by_origin(await it.dead_letters())
    config = CONFIG.replace("    attributes:", "    quarantine: {poll: 50ms}\n    attributes:")
    async with setup(tmp_path, config) as it:
        await it.publish(received("a", 1))
        await it.settled(quarantined=1)
        job = await it.replay(ids, follow=600.0)
        await it.with_status(job, "quarantined", 1)
        quarantine = QuarantineOperations(it.engine)
        assert [each.reason for each in await quarantine.list()] == ["instance_not_found", "follows"]
        assert await it.states() == {"replaying": 1}
        await it.start("a", 2)
        await quarantine.release("orders", "a")
        [item] = await it.ended(job)
        assert item.status == "succeeded"
        assert await it.result("a") == [1, 0]
        assert await it.states() == {"replayed": 1}


async def test_a_message_of_a_quarantined_key_that_is_dropped_fails(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        ids = by_origin(await it.dead_letters())
    config = CONFIG.replace("    attributes:", "    quarantine: {poll: 50ms}\n    attributes:")
    async with setup(tmp_path, config) as it:
        job = await it.replay(ids, follow=600.0)
        await it.with_status(job, "quarantined", 1)
        await QuarantineOperations(it.engine).drop("orders", "a", [], forget=True)
        [item] = await it.ended(job)
        assert (item.status, item.detail) == ("failed", "quarantine_dropped")
        assert await it.states() == {"open": 1}, "the dead letter is the only copy"


async def test_a_paused_source_executes_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        await it.start("a", 1)
        await it.pause()
        job = await it.replay(by_origin(await it.dead_letters()))
        await eventually(it.queued)
        assert await it.states() == {"replaying": 1}
        waits = "source orders is paused by a person: bridge sources resume orders"
        assert await why_waiting(it.engine, await it.jobs.record(job)) == waits
        await SourcePauses(it.engine).resume("orders")
        [item] = await it.ended(job)
        assert item.status == "succeeded"


async def test_a_queue_that_another_process_fills_goes_on_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.replay.state_machine.LEASE", 60.0)
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0), received("a", 1))
        await it.settled(dead_lettered=2)
        await it.start("a", 2)
        first, second = [entry.id for entry, _ in await it.dead_letters()]
        await it.ended(await it.replay([first]))
        it.daemon.replays.watch._feeds.clear()  # nothing is notified any more
        await it.ended(await it.replay([second]))
        assert await it.result("a") == [0, 1]


async def test_a_full_queue_makes_the_job_wait(tmp_path: Path) -> None:
    config = CONFIG.replace(
        "    attributes:", "    limits: {max_queued_replays: 10, dead_letter_limit: 1000}\n    attributes:"
    )
    count = 230
    async with setup(tmp_path, config.replace("partitions: 4", "partitions: 1")) as it:
        await it.publish(*(received("a", number) for number in range(count)))
        await it.settled(dead_lettered=count)
        await it.start("a", count)
        items = await it.ended(await it.replay(by_origin(await it.dead_letters())))
        assert Counter(each.status for each in items) == {"succeeded": count}
        assert await it.result("a") == list(range(count))


async def test_a_queue_does_not_exceed_its_limit_while_its_worker_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operate = ReplayEntities._operate

    def late(self: ReplayEntities, *arguments: Any) -> None:
        time.sleep(0.5)
        operate(self, *arguments)

    config = CONFIG.replace(
        "    attributes:", "    limits: {max_queued_replays: 10, dead_letter_limit: 1000}\n    attributes:"
    )
    count = 330
    async with setup(tmp_path, config.replace("partitions: 4", "partitions: 1")) as it:
        await it.publish(*(received("a", number) for number in range(count)))
        await it.settled(dead_lettered=count)
        await it.start("a", count)
        await it.pause()
        monkeypatch.setattr(ReplayEntities, "_operate", late)
        job = await it.replay(by_origin(await it.dead_letters()))
        store = ReplayStore(it.engine)

        async def queue() -> QueueState | None:
            states = [await store.load(key) for key in await store.list()]
            return states[0] if states and states[0].messages and not states[0].unsettled else None

        found = await eventually(queue)
        assert len(found.messages) == 100, "one page: the next one waits for its effect, and then for room"
        monkeypatch.setattr(ReplayEntities, "_operate", operate)
        await SourcePauses(it.engine).resume("orders")
        assert Counter(each.status for each in await it.ended(job)) == {"succeeded": count}


async def test_queues_in_flight_continue_in_the_next_daemon(tmp_path: Path) -> None:
    async with setup(tmp_path) as it:
        await it.publish(*(received("a", number) for number in range(3)))
        await it.settled(dead_lettered=3)
        await it.pause()
        job = await it.replay(by_origin(await it.dead_letters()))

        async def reached() -> object:
            return await it.queued() >= 3

        await eventually(reached)
        await it.start("a", 3)
    async with setup(tmp_path) as it:
        await SourcePauses(it.engine).resume("orders")
        items = await it.ended(job)
        assert {each.status for each in items} == {"succeeded"}
        assert await it.result("a") == [0, 1, 2]


async def test_a_replay_in_flight_is_reported_before_its_partition_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setup(tmp_path) as it:
        await it.publish(received("a", 0))
        await it.settled(dead_lettered=1)
        await it.start("a", 1)
        began, gate, own = asyncio.Event(), asyncio.Event(), it.client.raise_orchestration_event

        async def slow(*arguments: Any, **named: Any) -> Any:
            began.set()
            await gate.wait()
            return await own(*arguments, **named)

        monkeypatch.setattr(it.client, "raise_orchestration_event", slow)
        job = await it.replay(by_origin(await it.dead_letters()))
        await began.wait()
        [feed] = [part for part in it.source.parts if isinstance(part, ReplayFeed)]
        revoked = asyncio.create_task(it.source.revoked(list(it.source.assignment)))
        await eventually(lambda: not it.source.assignment)
        for key in await ReplayStore(it.engine).list():
            feed.notify(None, (key,))
        await feed.inspect()  # while the call is in flight, and the partition is not here any more
        gate.set()
        await revoked
        assert [each.status for each in await it.ended(job)] == ["succeeded"]
        assert await it.queued() == 0


async def test_a_result_that_comes_while_another_is_sent_is_sent_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with setup(tmp_path) as it:
        [feed] = [part for part in it.source.parts if isinstance(part, ReplayFeed)]
        queue = feed._queues["orders~-"] = _QueueHere("orders~-", asyncio.Event())
        gates = [asyncio.Event(), asyncio.Event()]
        waiting = list(gates)
        sent: list[str] = []

        async def slow(store: ReplayStore, key: str, operation: str, value: Any) -> None:
            if waiting:
                await waiting.pop(0).wait()
            sent.extend(each["mark"] for each in value["results"])

        monkeypatch.setattr(ReplayStore, "send", slow)
        queue.settle("a", {"mark": "a"})
        first, second = [asyncio.create_task(feed._flush()) for _ in gates]  # the second as at a revocation
        await asyncio.sleep(0)
        gates[0].set()
        await first
        queue.settle("b", {"mark": "b"})
        gates[1].set()
        await second
        await feed._flush()
        assert set(sent) == {"a", "b"}


async def test_a_queue_of_service_bus_keeps_a_dead_letter_until_its_message_is_executed(tmp_path: Path) -> None:
    async with ServiceBusServer(ServerConfig(queues=(QueueConfig("orders"),))) as server:
        config = CONFIG.replace(
            "{type: local, path: broker, partitions: 4}",
            f'{{type: servicebus, connection_string: "{server.connection_string}"}}',
        ).replace("topics: [orders]", "queue: orders")
        async with setup(tmp_path, config) as it:
            it.place = "orders/$DeadLetterQueue"
            await it.publish(*(received("a", number) for number in range(3)))
            await it.settled(dead_lettered=3)
            ids = by_origin(await it.dead_letters())
            items = await it.ended(await it.replay(ids))
            assert {(each.status, each.detail[:10]) for each in items} == {("failed", "same cause")}
            assert await it.states() == {"open": 3}, "no other dead letter continues it"
            await it.start("a", 3)
            items = await it.ended(await it.replay(ids))
            assert {each.status for each in items} == {"succeeded"}
            assert await it.result("a") == [0, 1, 2]


async def test_waiting_replays_are_encrypted_on_a_remote_engine(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
    with sidecar() as endpoint:
        engine = f'{{type: scheduler, endpoint: "http://{endpoint}", encryption: {{keys: [{{id: a, file: key}}]}}}}'
        config = CONFIG.replace("{type: embedded, path: engine}", engine)
        async with setup(tmp_path, config) as it:
            await it.publish(received("a", 0), received("b", 0))
            await it.settled(dead_lettered=2)
            await it.pause()
            job = await it.replay(by_origin(await it.dead_letters()))

            async def reached() -> object:
                return await it.queued() >= 2

            await eventually(reached)
            store = ReplayStore(it.engine)
            [key, *_] = await store.list()
            found = await it.client.get_entity(EntityInstanceId(REPLAY, key))
            assert found is not None
            assert "sealed" in (found.get_state() or "")
            assert "number" not in (found.get_state() or "")
            await it.start("a", 1)
            await SourcePauses(it.engine).resume("orders")
            items = await it.ended(job)
            assert sorted(each.status for each in items) == ["failed", "succeeded"]
            assert await it.result("a") == [0]
            await it.until_dead_letters(3)
            assert {message.body for _, message in await it.dead_letters()} == {received(id_, 0).body for id_ in "ab"}
