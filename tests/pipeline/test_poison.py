"""Poisoned messages stay local: dead-lettered with a cause, limited in time, backlog and rate."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from bridge.brokers.base import Broker, Delivery, Listener, SubscribeOptions
from bridge.core.commands import Command
from bridge.core.errors import BrokerUnavailable, EarlierMessagesWait, EngineRejected, InstanceNotFound
from bridge.core.message import Message
from bridge.core.provenance import Cause
from tests.kit.garbage import no_frames_in_cycles
from tests.kit.pipeline import START, message, running_pipeline


async def always(command: Command) -> None:
    raise InstanceNotFound("nobody there")


async def test_retries_end_after_their_time_with_the_cause(tmp_path: Path) -> None:
    async with running_pipeline(tmp_path, source="    retry: {initial: 5ms, in_memory: 60ms}") as it:
        it.faults.before = always
        await it.publish(message("start", "k-1", "k"))
        await it.source.start()
        await it.settled(1)
        assert it.source.ledger.dead_letters == {"instance_not_found": 1}
        entry = (await it.read("orders.dlq", 1))[0]
        headers = dict(entry.headers)
        assert entry.key == b"k"
        assert headers["bridge.reason"] == b"instance_not_found"
        assert headers["bridge.route"] == b"start"
        assert headers["bridge.error"] == b"InstanceNotFound"
        assert int(headers["bridge.attempts"]) > 2
        assert headers["type"] == b"start"


async def test_a_bug_is_tried_three_times(tmp_path: Path) -> None:
    async def bug(command: Command) -> None:
        raise ZeroDivisionError("secret payload")

    async with running_pipeline(tmp_path, source="    retry: {initial: 1ms}") as it:
        it.faults.before = bug
        await it.publish(message("start", "k-1", "k"))
        await it.source.start()
        await it.settled(1)
        assert len(it.faults.tried) == 3
        assert it.source.ledger.bugs == 3
        headers = dict((await it.read("orders.dlq", 1))[0].headers)
        assert headers["bridge.reason"] == b"bug"
        assert b"secret" not in headers["bridge.detail"]


async def test_too_many_behind_a_failing_key_end_its_retries_early(tmp_path: Path) -> None:
    settings = (
        "    retry: {initial: 5ms, multiplier: 10, max_delay: 5m, in_memory: 10m}\n    limits: {max_key_backlog: 5}"
    )
    async with running_pipeline(tmp_path, source=settings) as it:
        it.faults.before = always
        await it.publish(message("start", "k-0", "k"))
        await it.source.start()
        await it.until(lambda: it.source.ledger.retries == 4, "tries 5, 50, 500 ms apart; the next is seconds away")
        await it.publish(*(message("start", f"k-{number}", "k") for number in range(1, 8)))
        await it.until(lambda: it.source.ledger.dead_letters["instance_not_found"] == 2, "two ended early")
        await asyncio.sleep(0.05)
        assert it.source.ledger.in_flight == 6


async def test_waiting_behind_early_messages_is_no_failure(tmp_path: Path) -> None:
    """A long wait behind early messages is no failure; later failures have all their attempts and their whole time."""
    waiting = True

    async def wait_behind(command: Command) -> None:
        if waiting:
            raise EarlierMessagesWait("earlier messages wait for the instance")
        if failures:
            raise failures.pop()

    failures: list[Exception] = [ValueError("a bug"), ValueError("a bug")]
    settings = "    retry: {initial: 5ms, max_delay: 20ms, in_memory: 60ms}\n    limits: {max_key_backlog: 2}"
    async with running_pipeline(tmp_path, source=settings) as it:
        it.faults.before = wait_behind
        await it.publish(*(message("start", f"k-{number}", "k") for number in range(8)))
        await it.source.start()
        await it.until(
            lambda: any(lane.items[0].waited >= 12 for lane in it.source.lanes), "longer than the time of a failing one"
        )
        assert it.source.ledger.retries == 0
        waiting = False
        await it.settled(8)
        assert it.source.ledger.outcomes["executed"] == 8
        assert not failures


async def test_beyond_the_limit_dead_letters_wait_while_other_messages_go_on(tmp_path: Path) -> None:
    settings = "    limits: {dead_letter_limit: 10, concurrency: 1}"
    async with running_pipeline(tmp_path, source=settings) as it:
        await it.publish(*(message("unknown", f"k-{number}", f"k{number}") for number in range(50)))
        await it.source.start()
        await it.until(lambda: it.source.dead_letter_limit.active, "limited")
        await it.publish(*(message("start", f"g-{number}", f"g{number}") for number in range(5)))
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 5, "others go on")
        assert 10 <= it.source.ledger.dead_letters["no_route"] <= 12
        assert not it.source.gate.pause_reasons
        assert it.source.ledger.in_flight >= 38
        await it.source.drain(5)
        written = it.source.ledger.dead_letters["no_route"]
    async with running_pipeline(tmp_path, START + "  - {name: rest, from: orders, ignore: {}}\n") as again:
        await again.source.start()
        await again.settled(50 - written)
        assert again.source.ledger.outcomes["ignored"] == 50 - written


async def test_messages_that_succeed_end_the_limit(tmp_path: Path) -> None:
    """A sender of bad messages beside good ones of the same route stops no other sender."""

    async def refuse(command: Command) -> None:
        if "bad" in command.instance_id:  # type: ignore[union-attr]  # schedules only
            raise EngineRejected("too large")

    async with running_pipeline(tmp_path, source="    limits: {dead_letter_limit: 3}") as it:
        it.faults.before = refuse
        await it.publish(*(message("start", f"bad-{number}", f"b{number}") for number in range(6)))
        await it.source.start()
        await it.until(lambda: it.source.dead_letter_limit.active, "limited")
        assert set(it.source.dead_letter_limit.pauses) == {"start"}
        await it.publish(*(message("start", f"g-{number}", f"g{number}") for number in range(300)))
        await it.until(lambda: not it.source.dead_letter_limit.active, "free again")
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 300, "all good ones")
        await it.until(lambda: it.source.ledger.dead_letters["engine_rejected"] == 6, "all bad ones")


async def test_bad_messages_among_good_ones_do_not_fill_the_source(tmp_path: Path) -> None:
    """Three of four messages are bad, and they exceed the limit of messages in flight."""
    settings = "    limits: {dead_letter_limit: 10, max_in_flight: 40}"
    async with running_pipeline(tmp_path, source=settings) as it:
        mixed = [message("start" if number % 4 == 0 else "unknown", number, f"k{number}") for number in range(500)]
        await it.publish(*mixed)
        await it.source.start()
        await it.until(lambda: it.source.ledger.outcomes["executed"] == 125, "every good message")
        await it.until(lambda: it.source.ledger.dead_letters["no_route"] > 300, "they paid for the bad ones")


class NoDeadLetters:
    """Real delivery whose dead letter cannot be written while `broken`."""

    broken = True

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def __getattr__(self, name: str) -> Any:
        return getattr(self._delivery, name)

    async def dead_letter(self, cause: Cause) -> None:
        if NoDeadLetters.broken:
            raise BrokerUnavailable("the dead-letter topic cannot be written")
        await self._delivery.dead_letter(cause)


class NoDeadLetterBroker:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def subscribe(self, options: SubscribeOptions, listener: Listener) -> Any:
        subscription = await self._broker.subscribe(options, listener)
        receive = subscription.receive

        async def wrapped(limit: int) -> list[Any]:
            return [NoDeadLetters(delivery) for delivery in await receive(limit)]

        subscription.receive = wrapped  # type: ignore[method-assign]  # injects a fault
        return subscription


async def test_a_dead_letter_that_cannot_be_written_holds_the_source_and_is_written_later(tmp_path: Path) -> None:
    NoDeadLetters.broken = True
    async with running_pipeline(tmp_path, source="    retry: {initial: 10ms}", broker=NoDeadLetterBroker) as it:
        await it.publish(Message(b"{broken", b"k"), message("start", "k-1", "k"))
        await it.source.start()
        await it.until(lambda: "broker" in it.source.gate.pause_reasons, "held")
        await asyncio.sleep(0.05)
        assert sum(it.source.ledger.outcomes.values()) == 0
        NoDeadLetters.broken = False
        await it.settled(2)
        assert it.source.ledger.dead_letters == {"decode_error": 1}
        assert it.source.ledger.outcomes["executed"] == 1
        assert "broker" not in it.source.gate.pause_reasons
        assert len(await it.read("orders.dlq", 1)) == 1


async def test_a_blocked_prefix_stops_its_partition_at_the_gap_and_goes_on_after(tmp_path: Path) -> None:
    async def blocked(command: Command) -> None:
        if command.instance_id == "order-bad-0":  # type: ignore[union-attr]  # schedules only
            raise InstanceNotFound("injected")

    limits = "    limits: {max_gap: 50, max_in_flight: 20}\n    ordering: none"
    settings = "    retry: {initial: 20ms, in_memory: 1m}\n" + limits
    async with running_pipeline(tmp_path, source=settings) as it:
        it.faults.before = blocked
        await it.publish(message("start", "bad-0", "same"))
        await it.publish(*(message("start", f"good-{number}", "same") for number in range(1, 2000)))
        await it.source.start()
        await it.until(lambda: it.source.gate.paused, "paused")
        await asyncio.sleep(0.1)
        assert it.source.ledger.received < 1500, "the partition stops near its gap limit"
        it.faults.before = None
        await it.settled(2000)
        assert not it.source.gate.paused


async def test_errors_of_messages_keep_no_payloads(tmp_path: Path) -> None:
    """An error that is referenced by its own traceback lives until the cyclic collector runs, which a daemon rarely
    does."""

    async def refuse(command: Command) -> None:
        if command.instance_id.endswith("bad"):  # type: ignore[union-attr]  # schedules only
            raise EngineRejected("too large")

    async with running_pipeline(tmp_path, source="    limits: {dead_letter_limit: 1000}") as it:
        it.faults.before = refuse
        await it.source.start()
        with no_frames_in_cycles():
            for number in range(30):
                bodies = [b"{", b"[" * 500, b"{}", b'{"id": "bad"}', b'{"id": "%d"}' % number]
                await it.publish(*(Message(body, b"k%d" % number, (("type", b"start"),)) for body in bodies))
            await it.settled(150)
