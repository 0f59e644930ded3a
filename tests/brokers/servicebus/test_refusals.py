"""Refusals are distinguished: of one message, of the connection, of the entity."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.servicebus.dead_letters import DeadLetterQueue
from bridge.brokers.servicebus.faults import Refused
from bridge.core import provenance
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message, Position
from bridge.core.provenance import Cause
from tests.brokers.consumer import Assignments
from tests.brokers.servicebus.harness import ServiceBusHarness
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import PipelineFixture, message
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.entities import settlement
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import Refusal

pytestmark = pytest.mark.long

DELIVERIES = 3
"""Max delivery count of the queues."""
ENTITIES = pytest.mark.parametrize(
    "entity", ["queue: orders", "queue: by-session\n    sessions: {concurrent: 2}"], ids=["plain", "sessions"]
)
FAT = "fat"
IMPATIENT = "    retry: {max_delay: 500ms}"
"""Retry pauses that do not grow, for tests with repeatedly broken connections."""
NAMESPACE = "127.0.0.1"


SERVER = ServerConfig(
    (
        QueueConfig("orders", lock_duration=5, max_delivery_count=DELIVERIES),
        QueueConfig("by-session", lock_duration=5, max_delivery_count=DELIVERIES, requires_session=True),
        QueueConfig("letters"),
    )
)


class Settling:
    """Interceptor of the server's settlements, on the receiver's link and on the management link."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: Counter[str] = Counter()
        """Refusals by outcome."""
        self.last_refused: dict[str, str] = {}
        """Outcome that was refused last, by message id."""
        self.refuses: Callable[[str, str | None, str | None, str | None], None] = lambda *_: None
        """Callback that may raise Refusal. Arguments: outcome, message id, reason and description of a dead letter."""
        for verb in ("complete", "abandon", "dead_letter"):
            self._stand_before(monkeypatch, verb, getattr(settlement, verb))

    def _stand_before(self, monkeypatch: pytest.MonkeyPatch, verb: str, then: Callable[..., None]) -> None:
        def settle(queue: Queue, token: uuid.UUID, *cause: Any) -> None:
            found = queue.locked.get(token)
            id_ = None if found is None else str(found.message_id)
            try:
                self.refuses(verb, id_, *(cause[:2] or (None, None)))
            except Refusal:
                self.refused[verb] += 1
                self.last_refused[str(id_)] = verb
                raise
            then(queue, token, *cause)

        monkeypatch.setattr(settlement, verb, settle)


@pytest.fixture
def settling(monkeypatch: pytest.MonkeyPatch) -> Settling:
    return Settling(monkeypatch)


def refuse(*verbs: str, condition: str = "amqp:not-allowed") -> Callable[..., None]:
    """Refuse these settlements of the message `fat`."""

    def refuses(verb: str, id_: str | None, *_: str | None) -> None:
        if verb in verbs and id_ == FAT:
            raise Refusal(condition, "refused for good")

    return refuses


def fat(body: bytes, session: str = "A") -> Message:
    return Message(body, session.encode(), (("type", b"start"),), message_id=FAT)


def queue_of(entity: str) -> str:
    return entity.split()[1]


def healthy(count: int, first: int = 0) -> list[Message]:
    return [message("start", f"{n}", f"S{n % 4}") for n in range(first, first + count)]


@pytest.mark.usefixtures("quick_start")
@ENTITIES
@pytest.mark.parametrize(("verb", "body"), [("complete", b'{"id": "fat"}'), ("dead_letter", b"{no json")])
async def test_one_message_that_cannot_be_settled_stops_nobody(
    tmp_path: Path, server: ServiceBusServer, settling: Settling, entity: str, verb: str, body: bytes
) -> None:
    queue = queue_of(entity)
    settling.refuses = refuse(verb)
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        ledger = setup.source.ledger
        await setup.source.start()
        await setup.publish(fat(body), *healthy(20), topic=queue)
        await setup.until(lambda: outcomes(setup).get("executed", 0) == 20, "the others are executed")
        await setup.until(lambda: server.counters.dead_letters, "the service ends it")
        await setup.until(lambda: not ledger.in_flight, "all have ended")
        assert ledger.abandoned == Counter(settlement_refused=DELIVERIES)
        assert ledger.received == 20 + DELIVERIES
        [dead] = server.counters.dead_letters
        assert (dead.message_id, dead.reason) == (FAT, "MaxDeliveryCountExceeded")
        # A few attempts for each delivery, and no new connection for any of them
        assert 3 * DELIVERIES <= settling.refused[verb] <= 5 * DELIVERIES
        assert setup.source.subscription.reconnects == 0  # type: ignore[attr-defined]  # of the class behind the interface
        assert not setup.source.gate.pause_reasons
        assert server.counters.expired_session_locks == Counter()


async def test_a_source_goes_on_at_full_speed(tmp_path: Path, server: ServiceBusServer, settling: Settling) -> None:
    """Half of the messages cannot be settled.

    Each counts as one dead letter; 100 of them would exceed the dead-letter limit.
    """

    def refuses(verb: str, id_: str | None, *_: str | None) -> None:
        if verb == "dead_letter":
            raise Refusal("amqp:precondition-failed", "refused for good")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        bad = [Message(b"{no json", b"%d" % n, (("type", b"start"),)) for n in range(60)]
        mixed = [each for pair in zip(bad, healthy(60), strict=True) for each in pair]
        await setup.publish(*mixed)
        await setup.until(lambda: outcomes(setup) == {"executed": 60}, "the others are executed")
        assert not setup.source.gate.pause_reasons
        await setup.until(lambda: len(server.counters.dead_letters) == 60, "the service ends them")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert setup.source.ledger.abandoned == Counter(settlement_refused=60 * DELIVERIES)


@pytest.mark.parametrize(("room", "detail"), [(150, True), (0, False)])
async def test_a_dead_letter_says_less_where_the_message_has_no_room(
    tmp_path: Path, server: ServiceBusServer, settling: Settling, room: int, detail: bool
) -> None:
    def refuses(verb: str, id_: str | None, reason: str | None, description: str | None, *_: str | None) -> None:
        if verb == "dead_letter" and len((reason or "") + (description or "")) > room:
            raise Refusal("com.microsoft:argument-error", "the properties have more than 64 KB")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await setup.publish(fat(b"{no json"), *healthy(3))
        await setup.settled(4)
        assert outcomes(setup) == {"executed": 3, "dead_lettered": 1}
        assert not setup.source.ledger.abandoned
        [dead] = server.counters.dead_letters
        assert bool(dead.reason) == bool(dead.description) == detail
        assert dead.reason in ("decode_error", "", None)


async def test_a_message_that_is_not_even_taken_back_comes_again_with_its_lock(
    tmp_path: Path, server: ServiceBusServer, settling: Settling
) -> None:
    settling.refuses = refuse("complete", "abandon")
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await setup.publish(fat(b'{"id": "fat"}'))
        await setup.until(lambda: setup.source.ledger.abandoned, "let go")
        settling.refuses = lambda *_: None
        await setup.publish(*healthy(5))
        await setup.settled(6)
        assert outcomes(setup) == {"executed": 5, "duplicate": 1}
        assert server.counters.expired_locks["orders"] == 1
        assert setup.source.ledger.locks_lost == 0


async def test_an_answer_that_might_pass_is_the_message_s_once_others_are_settled(
    tmp_path: Path, server: ServiceBusServer, settling: Settling
) -> None:
    settling.refuses = refuse("complete", condition="amqp:internal-error")
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await setup.publish(fat(b'{"id": "fat"}'), *healthy(20))
        await setup.until(lambda: outcomes(setup).get("executed", 0) == 20, "the others are executed")
        await setup.publish(*healthy(20, 20))
        await setup.until(lambda: outcomes(setup).get("executed", 0) == 40, "and those that come later")
        await setup.until(lambda: server.counters.dead_letters, "the service ends it")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert setup.source.ledger.abandoned == Counter(settlement_refused=DELIVERIES)


@pytest.mark.parametrize("condition", ["amqp:internal-error", "com.microsoft:server-busy"])
async def test_a_service_that_settles_nothing_is_an_outage(
    tmp_path: Path, server: ServiceBusServer, settling: Settling, condition: str
) -> None:
    def refuses(verb: str, *_: str | None) -> None:
        raise Refusal(condition, "not now")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await setup.publish(*healthy(10))
        await setup.until(lambda: settling.refused["complete"] >= 20, "tried again and again")
        assert setup.source.ledger.received == setup.source.ledger.in_flight
        # A service that recovers between the last completion and the abandonment of a message would abandon it
        if settling.refused["abandon"]:
            await setup.until(lambda: {*settling.last_refused.values()} == {"abandon"}, "all wait for new attempts")
        settling.refuses = lambda *_: None
        await setup.settled(10)
        assert not setup.source.ledger.abandoned
        assert server.counters.dead_letters == []


async def test_a_message_whose_settlement_takes_the_connection_is_left_alone(
    tmp_path: Path, server: ServiceBusServer, settling: Settling
) -> None:
    def refuses(verb: str, id_: str | None, *_: str | None) -> None:
        if verb == "complete" and id_ == FAT:
            server.faults.drop()
            raise Refusal("amqp:internal-error", "nobody hears this")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string, source=IMPATIENT) as setup:
        await setup.publish(fat(b'{"id": "fat"}'), *healthy(20))
        await setup.source.start()
        await _release_all(server, setup)
        settling.refuses = lambda *_: None
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "it is settled")


async def _release_all(server: ServiceBusServer, setup: PipelineFixture) -> None:
    """Publish healthy messages until the fat message is abandoned; all others must continue."""
    refused = setup.source.ledger.abandoned
    number = 100
    while not refused["settlement_refused"]:
        await setup.until(
            lambda: server.queue("orders").contents().unsettled <= 1 or refused["settlement_refused"], "others go on"
        )
        with suppress(BrokerUnavailable):  # the publisher's connection breaks too
            await setup.publish(*healthy(1, number := number + 1))


async def test_a_detach_at_a_settlement_differs_from_a_refusal(
    tmp_path: Path, server: ServiceBusServer, settling: Settling
) -> None:
    """The SDK retries over the management link, whose answer counts."""

    def refuses(verb: str, id_: str | None, *_: str | None) -> None:
        if verb == "complete" and id_ == FAT:
            server.faults.detach("amqp:internal-error", entity="orders")
            raise Refusal("amqp:not-allowed", "refused for good")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string, source=IMPATIENT) as setup:
        await setup.publish(fat(b'{"id": "fat"}'), *healthy(20))
        await setup.source.start()
        await _release_all(server, setup)
        settling.refuses = lambda *_: None
        await setup.until(lambda: not server.queue("orders").contents().unsettled, "it is settled")


# -- dead letters on another queue


async def read(server: ServiceBusServer, setup: PipelineFixture) -> dict[str, bytes | None]:
    [dead_letter] = await setup.read("letters", 1)
    return dict(dead_letter.headers) | {"body": dead_letter.body, "key": dead_letter.key}


def large(count: int, size: int) -> Message:
    """Create messages just below the limit of the queue, without space for the headers of a dead letter."""
    headers = tuple((f"p{n}", b"x" * size) for n in range(count))
    return Message(b"{no json", b"k", (("type", b"start"), *headers))


async def test_a_dead_letter_too_large_goes_without_what_makes_it_so(tmp_path: Path, server: ServiceBusServer) -> None:
    async with bus_setup(tmp_path, server.connection_string, source="    dead_letter: letters") as setup:
        await setup.source.start()
        await setup.publish(large(10, 26_180), *healthy(5))
        await setup.settled(6)
        assert outcomes(setup) == {"executed": 5, "dead_lettered": 1}
        found = await read(server, setup)
        assert (found["body"], found["key"], "p0" in found) == (b"", b"k", False)
        assert found[provenance.TRUNCATED] == b"payload, headers"
        assert (found[provenance.TOPIC], found[provenance.REASON]) == (b"orders", b"decode_error")


async def test_too_many_properties_are_a_refusal_whatever_the_service_calls_them(
    tmp_path: Path, server: ServiceBusServer
) -> None:
    """One write only: after an outage, the second attempt would write the whole dead letter."""
    server.faults.add("send", "reject", entity="letters", condition="amqp:internal-error", times=2)
    async with bus_setup(tmp_path, server.connection_string, source="    dead_letter: letters") as setup:
        await setup.source.start()
        await setup.publish(large(2, 32_700))
        await setup.settled(1)
        found = await read(server, setup)
        assert ("p0" in found, found[provenance.TRUNCATED]) == (False, b"payload, headers")


async def test_an_unknown_queue_for_dead_letters_is_named_and_costs_the_letter_nothing(
    tmp_path: Path, server: ServiceBusServer
) -> None:
    async with bus_setup(tmp_path, server.connection_string, source="    dead_letter: missing") as setup:
        await setup.source.start()
        await setup.publish(fat(b"{no json"))
        await setup.until(lambda: "broker" in setup.source.gate.pause_reasons, "held")
        words = setup.source.gate.pause_reasons["broker"]
        assert "orders/0@" in words
        assert f"no queue or topic missing in {NAMESPACE}" in words
        entities = server.namespace._entities
        entities["missing"] = entities["letters"]
        await setup.settled(1)
        found = await read(server, setup)
        assert (found["body"], provenance.TRUNCATED in found) == (b"{no json", False)


async def test_a_dead_letter_is_written_once_though_its_message_is_settled_late(
    tmp_path: Path, server: ServiceBusServer
) -> None:
    server.faults.add("settle", "drop", entity="orders", times=2)
    async with bus_setup(tmp_path, server.connection_string, source="    dead_letter: letters") as setup:
        await setup.source.start()
        await setup.publish(fat(b"{no json"))
        await setup.settled(1)
        assert server.counters.accepted["letters"] == 1


@pytest.mark.usefixtures("quick_start")
@ENTITIES
async def test_a_dead_letter_is_written_once_though_its_message_is_never_settled(
    tmp_path: Path, server: ServiceBusServer, settling: Settling, entity: str
) -> None:
    settling.refuses = refuse("complete")
    async with bus_setup(tmp_path, server.connection_string, entity, source="    dead_letter: letters") as setup:
        await setup.source.start()
        await setup.publish(fat(b"{no json"), *healthy(5), topic=queue_of(entity))
        await setup.until(lambda: outcomes(setup).get("executed", 0) == 5, "the others are executed")
        await setup.until(lambda: server.counters.dead_letters, "the service ends it")
        await setup.until(lambda: not setup.source.ledger.in_flight, "all have ended")
        assert outcomes(setup) == {"executed": 5}
        assert setup.source.ledger.abandoned == Counter(settlement_refused=DELIVERIES)
        assert server.counters.accepted["letters"] == 1
        [dead] = server.counters.dead_letters
        assert (dead.message_id, dead.reason) == (FAT, "MaxDeliveryCountExceeded")


async def test_duplicate_detection_knows_a_dead_letter_of_another_process(harness: ServiceBusHarness) -> None:
    """The dead letter of another message at the same position, in a recreated queue, is a different one."""
    assert harness.server is not None
    harness.server.namespace.create((QueueConfig("once", duplicate_detection=60),))
    position, cause = Position(NAMESPACE, "orders", 0, 7), Cause("no_route", "no rule matched", "NoRoute", "orders")
    message = Message(b"x", b"k", timestamp=1.5, message_id="m-1")
    for _ in range(2):
        broker = await harness.broker()
        assert broker._senders is not None
        queue = DeadLetterQueue(broker._senders.publish, "once")
        await queue.write(message, position, cause)
        await queue.write(message, position, cause)
        await queue.write(replace(message, timestamp=2.5), position, cause)
        await queue.write(message, replace(position, offset=-1), cause)
    assert harness.server.counters.duplicates["once"] == 2
    assert harness.server.counters.accepted["once"] == 4


# -- refused entities


@pytest.mark.parametrize("step", ["claim", "attach"])
async def test_an_unknown_entity_is_named_however_it_is_refused(harness: ServiceBusHarness, step: str) -> None:
    """The service refuses the claim; other servers refuse the link."""
    assert harness.server is not None
    harness.server.faults.add(step, "reject", condition="amqp:not-found", entity="orders", times=-1)
    broker = await harness.broker()
    with pytest.raises(Refused, match=rf"no queue orders in {NAMESPACE}.*: create it, or correct `queue`"):
        await broker.subscribe(SubscribeOptions(("orders",), dead_letter=None), Assignments())


async def test_an_entity_that_refuses_everybody_s_settlements_is_named(
    tmp_path: Path, server: ServiceBusServer, settling: Settling
) -> None:
    def refuses(*_: str | None) -> None:
        raise Refusal("com.microsoft:entity-disabled", "The messaging entity is disabled.")

    settling.refuses = refuses
    async with bus_setup(tmp_path, server.connection_string) as setup:
        await setup.source.start()
        await setup.publish(*healthy(3))
        await setup.until(lambda: "broker" in setup.source.gate.pause_reasons, "held")
        assert f"orders is disabled in {NAMESPACE}" in setup.source.gate.pause_reasons["broker"]
        settling.refuses = lambda *_: None
        await setup.settled(3)
        assert not setup.source.ledger.abandoned
