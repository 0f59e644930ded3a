"""Messages that the SDK cannot decode, among healthy ones: none is lost, and none affects another."""

from __future__ import annotations

import asyncio
import random
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bridge.brokers.base import Delivery, ReadOptions, SubscribeOptions
from bridge.brokers.servicebus import ServiceBusBroker
from bridge.config.model.servicebus import SessionsConfig
from tests.brokers.consumer import CAUSE, Assignments
from tests.brokers.servicebus import poison
from tests.brokers.servicebus.setup import bus_setup, outcomes
from tests.kit.pipeline import PipelineFixture, offsets_by_key
from tests.kit.waiting import TIMEOUT
from tests.servicebus.server import QueueConfig, ServerConfig, ServiceBusServer
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.message import Message
from tests.servicebus.server.outgoing import OutgoingLink

pytestmark = pytest.mark.long

ENTITIES = pytest.mark.parametrize(
    "entity", ["queue: plain", "queue: by-session\n    sessions: {concurrent: 4}"], ids=["plain", "sessions"]
)
DROPS = ("drop", "detach", "close", "lose_locks")
CUTS = ("delivered", "echoed", "attached")
"""Steps after whose frame a connection is cut, in the middle of the frame."""


SERVER = ServerConfig(
    (
        QueueConfig("plain", lock_duration=5, max_delivery_count=100),
        QueueConfig("by-session", lock_duration=5, max_delivery_count=100, requires_session=True),
    )
)
BROKER = {"request_timeout": "3s"}


def queue_of(setup: PipelineFixture) -> str:
    return setup.source.settings.subscribe.topics[0]


def inject_faults(
    server: ServiceBusServer,
    setup: PipelineFixture,
    r: random.Random,
    every: int,
    most: int | None,
    kinds: Sequence[str],
) -> None:
    """Inject a fault at every few commands. most: maximum number of faults; None: no limit."""
    count = 0

    async def before(command: object) -> None:
        nonlocal count
        count += 1
        if count % every == 0 and (most is None or count <= most * every):
            match r.choice(kinds):
                case "drop":
                    server.faults.drop()
                case "close":
                    server.faults.close()
                case "cut":
                    server.faults.add(r.choice(CUTS), "cut", entity=queue_of(setup))
                case "detach":
                    server.faults.detach("amqp:link:detach-forced", entity=queue_of(setup))
                case _:
                    server.faults.lose_locks(queue_of(setup))

    setup.faults.before = before


async def mixed(
    server: ServiceBusServer,
    setup: PipelineFixture,
    seed: int,
    count: int,
    keys: int,
    every: int,
    most: int | None = None,
    kinds: Sequence[str] = DROPS,
) -> None:
    """Process healthy and unreadable messages of several keys, with faults. every, most, kinds: see `inject_faults`."""
    r = random.Random(seed)
    queue = queue_of(setup)
    session = server.queue(queue).sessions is not None
    good: dict[str, list[int]] = {}
    bad: set[str] = set()
    numbers: Counter[str] = Counter()
    for _ in range(count):
        key = f"k{r.randrange(keys)}"
        number = numbers[key]
        numbers[key] += 1
        if r.random() < 0.3:
            poison.store(server, queue, poison.unreadable(key, number, r, session))
            bad.add(f"{key}-{number}")
        else:
            poison.store(server, queue, poison.healthy(key, number, r, session))
            good.setdefault(key, []).append(number)
    inject_faults(server, setup, r, every, most, kinds)
    await setup.source.start()
    contents = server.queue(queue).contents
    await setup.until(lambda: not contents().unsettled and not setup.source.ledger.in_flight, f"all done, seed {seed}")
    effects = offsets_by_key(setup.faults.taken)
    if not session:
        effects = {key: sorted(found) for key, found in effects.items()}
    assert effects == good  # none is lost, doubled or, in a session, overtaken
    dead_letters = Counter(dead_letter.message_id for dead_letter in server.counters.dead_letters)
    assert dead_letters == Counter(bad)
    assert {dead_letter.reason for dead_letter in server.counters.dead_letters} == {"unreadable"}


@pytest.fixture(autouse=True)
def nothing_unexpected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail on any traceback in the logs of the bridge or of the SDK."""
    yield
    assert [each.getMessage() for each in caplog.get_records("call") if each.exc_info] == []


@ENTITIES
@pytest.mark.parametrize("seed", range(3))
async def test_all_kinds_with_faults(tmp_path: Path, server: ServiceBusServer, entity: str, seed: int) -> None:
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        await mixed(server, setup, seed, count=80, keys=5, every=20)


@pytest.mark.prove
@pytest.mark.timeout(600)
@ENTITIES
@pytest.mark.parametrize("seed", range(100, 120))
async def test_many_of_all_kinds_with_faults(tmp_path: Path, server: ServiceBusServer, entity: str, seed: int) -> None:
    limits = "    limits: {dead_letter_limit: 1000}"
    async with bus_setup(tmp_path, server.connection_string, entity, source=limits) as setup:
        await mixed(server, setup, seed, count=600, keys=12, every=50)


@ENTITIES
@pytest.mark.parametrize("kind", sorted(poison.UNREADABLE))
async def test_one_is_one_dead_letter(tmp_path: Path, server: ServiceBusServer, entity: str, kind: str) -> None:
    """One dead letter in its place, over the existing connection, without a loss of readiness."""
    r = random.Random(1)
    async with bus_setup(tmp_path, server.connection_string, entity) as setup:
        queue = queue_of(setup)
        session = queue == "by-session"
        for number in range(5):
            make = poison.unreadable if number == 2 else poison.healthy
            poison.store(server, queue, make("k", number, r, session))
        await setup.source.start()
        await setup.settled(5)
        assert outcomes(setup) == {"executed": 4, "dead_lettered": 1}
        assert [(each.message_id, each.sequence_number) for each in server.counters.dead_letters] == [("k-2", 3)]
        if session:
            assert offsets_by_key(setup.faults.taken) == {"k": [0, 1, 3, 4]}
        assert sum(setup.source.ledger.unreadable.values()) == 1
        subscription: Any = setup.source.subscription
        assert (subscription.reconnects, subscription.stopped()) == (0, {})
        assert server.counters.deliveries[queue] == 5


@ENTITIES
async def test_a_source_may_skip_them(tmp_path: Path, server: ServiceBusServer, entity: str) -> None:
    r = random.Random(1)
    async with bus_setup(tmp_path, server.connection_string, entity, source="    on_unreadable: skip") as setup:
        queue = queue_of(setup)
        for number in range(4):
            make = poison.unreadable if number % 2 else poison.healthy
            poison.store(server, queue, make("k", number, r, queue == "by-session"))
        await setup.source.start()
        await setup.settled(4)
        assert outcomes(setup) == {"executed": 2, "ignored": 2}
        assert server.counters.dead_letters == []
        assert not server.queue(queue).contents().unsettled


async def take(broker: ServiceBusBroker, queue: str, count: int) -> tuple[Any, list[Delivery]]:
    sessions = SessionsConfig(concurrent=1) if queue == "by-session" else None
    subscription = await broker.subscribe(
        SubscribeOptions((queue,), dead_letter=None, sessions=sessions), Assignments()
    )
    found: list[Delivery] = []
    async with asyncio.timeout(TIMEOUT):
        while len(found) < count:
            found += await subscription.receive(count - len(found))
    return subscription, found


@pytest.mark.parametrize("queue", ["plain", "by-session"])
async def test_what_is_handed_out(server: ServiceBusServer, broker: ServiceBusBroker, queue: str) -> None:
    """The delivery has the number, the key, the readable headers, and the whole message as its body."""
    message = poison.unreadable("k", 7, random.Random(3), queue == "by-session", "too deep")
    message.application_properties = encoder.described(
        0x74,
        encoder.mapping([(encoder.string("ok"), encoder.string("yes")), (encoder.string("no"), poison.nested(70))]),
    )
    number = poison.store(server, queue, message)
    _, [delivery] = await take(broker, queue, 1)
    found = delivery.message
    assert found.unreadable is not None
    assert (found.unreadable.fault, found.unreadable.key_known) == ("amqp_value", True)
    assert "64 levels" in found.unreadable.detail
    assert found.key == (b"k" if queue == "by-session" else None)
    assert found.headers == (("ok", b"yes"),)
    assert found.body is not None
    assert message.application_properties in found.body
    assert delivery.position.offset == number
    await delivery.dead_letter(CAUSE)
    assert [each.sequence_number for each in server.counters.dead_letters] == [number]


@pytest.mark.parametrize("place", ["property", "field", "value", "sequence"])
async def test_what_json_would_change_keeps_its_bytes(
    server: ServiceBusServer, broker: ServiceBusBroker, place: str
) -> None:
    """The client reads such a message, but no header or body can represent it: its dead letter must not be empty."""
    odd = encoder.sequence([b"\x82" + struct.pack(">d", float("nan"))])
    message = poison.healthy("k", 7, random.Random(3), False)
    match place:
        case "property":
            message.application_properties = encoder.described(0x74, encoder.mapping([(encoder.string("p"), odd)]))
        case "field":
            message.properties = encoder.described(0x73, encoder.sequence([encoder.string("k-7"), encoder.NULL, odd]))
        case "value":
            message.body = encoder.described(0x77, odd)
        case _:
            message.body = encoder.described(0x76, odd)
    poison.store(server, "plain", message)
    [(_, shown)] = [each async for each in broker.read(ReadOptions("plain"))]
    _, [delivery] = await take(broker, "plain", 1)
    for found in (shown, delivery.message):
        assert found.unreadable is not None
        assert found.body is not None
        assert odd in found.body
    await delivery.complete()


async def test_the_key_comes_from_the_session_where_it_cannot_be_read(
    server: ServiceBusServer, broker: ServiceBusBroker
) -> None:
    message = poison.healthy("k", 0, random.Random(3), True)
    message.properties = b"\x00\x53\x73" + encoder.sequence([b"\x10"])
    poison.store(server, "by-session", message)
    _, [delivery] = await take(broker, "by-session", 1)
    assert delivery.message.key == b"k"
    assert delivery.message.unreadable is not None
    assert delivery.message.unreadable.key_known
    await delivery.complete()


# -- unusual transfers


@pytest.fixture
def transfers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Changed fields of the transfers of every message whose id begins with `odd`: encoded values by field."""
    changes: dict[str, Any] = {}
    deliver = OutgoingLink.deliver

    def odd(link: OutgoingLink, message: Message) -> None:
        if not str(message.message_id).startswith("odd"):
            return deliver(link, message)
        send, frames = link.session.send_transfer, 0

        def changed(fields: list[bytes], payload: bytes) -> None:
            nonlocal frames
            for index, value in changes.get("fields", {}).items():
                if index < len(fields) and not frames:
                    fields[index] = value
            frames += 1
            if changes.get("abort"):
                # The rest never arrives
                send([*fields[:5], encoder.TRUE, *fields[6:]], payload[: len(payload) // 2])
                send([fields[0], *[encoder.NULL] * 4, encoder.FALSE, *[encoder.NULL] * 3, encoder.TRUE], b"")
                return
            send(fields, changes.get("payload", lambda given: given)(payload))

        link.session.send_transfer = changed  # type: ignore[method-assign]
        try:
            deliver(link, message)
        finally:
            link.session.send_transfer = send  # type: ignore[method-assign]

    monkeypatch.setattr(OutgoingLink, "deliver", odd)
    return changes


@pytest.mark.parametrize("queue", ["plain", "by-session"])
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"fields": {2: encoder.binary(b"1234")}}, None),  # a delivery tag that is not a lock token
        ({"fields": {2: encoder.NULL}}, None),
        ({"payload": lambda given: given.replace(b"x-opt-sequence", b"x-opt-nothings")}, "sequence_number"),
        ({"payload": lambda given: given.replace(b"x-opt-locked", b"x-opt-kissed")}, None),
        ({"payload": lambda given: b""}, "sequence_number"),
        ({"payload": lambda given: b"\xff" * 10}, "amqp_value"),
    ],
)  # fmt: skip
async def test_odd_transfers_are_handed_out_and_settled(
    server: ServiceBusServer, broker: ServiceBusBroker, transfers: dict[str, Any], queue: str, changes: Any, fault: str
) -> None:
    transfers |= changes
    r = random.Random(4)
    for key, number in (("k", 0), ("odd", 1), ("odd", 2), ("k", 3)):
        message = poison.healthy("k", number, r, queue == "by-session")
        message.message_id = f"{key}-{number}"
        poison.store(server, queue, message)
    subscription, found = await take(broker, queue, 4)
    faults = [None if each.message.unreadable is None else each.message.unreadable.fault for each in found]
    assert faults == [None, fault, fault, None]
    for delivery in found:
        await delivery.complete()
    assert not server.queue(queue).contents().unsettled
    assert (subscription.reconnects, subscription.stopped()) == (0, {})


@pytest.mark.parametrize("queue", ["plain", "by-session"])
async def test_what_cannot_be_settled_is_shown_and_holds_nothing(
    server: ServiceBusServer, broker: ServiceBusBroker, transfers: dict[str, Any], queue: str
) -> None:
    transfers |= {"fields": {1: encoder.NULL}}
    r = random.Random(4)
    for number, name in enumerate(("k-0", "odd-1", "k-2")):
        message = poison.healthy("k", number, r, queue == "by-session")
        message.message_id = name
        poison.store(server, queue, message)
    subscription, found = await take(broker, queue, 2)
    for delivery in found:
        await delivery.complete()
    [text] = subscription.stopped().values()
    assert "message 2 came without a delivery id" in text
    assert subscription.reconnects == 0


async def test_an_aborted_transfer_is_none(
    server: ServiceBusServer, broker: ServiceBusBroker, transfers: dict[str, Any]
) -> None:
    """The part of an aborted transfer is not taken for the beginning of the next transfer."""
    transfers |= {"abort": True}
    r = random.Random(4)
    for number, name in enumerate(("k-0", "odd-1", "k-2")):
        message = poison.healthy("k", number, r, False)
        message.message_id = name
        poison.store(server, "plain", message)
    _, found = await take(broker, "plain", 2)
    assert [each.position.offset for each in found] == [1, 3]
    assert all(each.message.unreadable is None for each in found)


async def test_large_ones_in_many_frames(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    """The first message is unreadable; the second must not contain the remainder of the first."""
    rotten = poison.healthy("k", 0, random.Random(5), False)
    rotten.body = encoder.described(0x77, encoder.sequence([encoder.binary(bytes(200_000)), poison.nested(70)]))
    whole = poison.healthy("k", 1, random.Random(5), False)
    whole.body = encoder.described(0x75, encoder.binary(b"1" * 200_000))
    for message in (rotten, whole):
        poison.store(server, "plain", message)
    _, found = await take(broker, "plain", 2)
    assert [each.message.unreadable is None for each in found] == [False, True]
    assert found[1].message.body == b"1" * 200_000
    for delivery in found:
        await delivery.complete()


async def test_they_are_shown_to_who_only_looks(server: ServiceBusServer, broker: ServiceBusBroker) -> None:
    r = random.Random(6)
    for number in range(3):
        make = poison.unreadable if number == 1 else poison.healthy
        poison.store(server, "plain", make("k", number, r, False))
    found = [each async for each in broker.read(ReadOptions("plain"))]
    assert [(position.offset, message.unreadable is None) for position, message in found] == [
        (1, True),
        (2, False),
        (3, True),
    ]
