"""Publishing to a real local broker, and the messages that consumers receive."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import pytest

from bridge.app.composition import build_broker
from bridge.app.messages.publish import MAX_BATCH, Destination, destination, publish
from bridge.brokers.base import SubscribeOptions
from bridge.config.source import Loaded, load
from bridge.core.errors import BrokerUnavailable, DecodeError
from bridge.core.message import Message, Position
from tests.app.project import write_project
from tests.kit.listener import NullListener

Placed = Sequence[Position | None]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "publishing").parent


@pytest.fixture
def loaded(project: Path) -> Loaded:
    return load([project / "bridge.yaml"], environ={})


async def consume(loaded: Loaded, topic: str, count: int) -> list[Message]:
    broker = build_broker(loaded, "local")
    await broker.start()
    try:
        subscription = await broker.subscribe(SubscribeOptions((topic,), "test"), NullListener())
        messages: list[Message] = []
        while len(messages) < count:
            messages += [delivery.message for delivery in await subscription.receive(1000)]
        return messages
    finally:
        await broker.stop()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", Destination("local", "orders", "cloudevents")),
        ("plain", Destination("local", "plain", "json")),
        ("local/plain", Destination("local", "plain", "json")),
        ("local/orders.dlq", Destination("local", "orders.dlq", None)),
        ("local/", Destination("local", None, None)),
    ],
)
def test_destinations(loaded: Loaded, text: str, expected: Destination) -> None:
    assert destination(loaded, text) == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("order", "there is no source 'order'; did you mean 'orders'.; a topic has the form BROKER/TOPIC"),
        ("kafka/orders", r"there is no broker 'kafka' \(known: local\)"),
        ("local/a b", "the name of a topic or group"),
        ("", "there is no source ''"),
    ],
)
def test_unknown_destinations(loaded: Loaded, text: str, what: str) -> None:
    with pytest.raises(LookupError, match=what):
        destination(loaded, text)


async def test_everything_arrives_in_order(loaded: Loaded) -> None:
    count = 2 * MAX_BATCH + 7
    batch = [("orders", Message(str(number).encode(), b"k", (("n", b"1"), ("n", b"2")))) for number in range(count)]
    received: list[Placed] = []
    assert await in_thread(loaded, [batch[:5], batch[5:]], received) == count
    assert list(accumulate(map(len, received))) == [5, 5 + MAX_BATCH, 5 + 2 * MAX_BATCH, count]
    messages = await consume(loaded, "orders", count)
    assert [message.body for message in messages] == [str(number).encode() for number in range(count)]
    assert {(message.key, message.headers) for message in messages} == {(b"k", (("n", b"1"), ("n", b"2")))}


async def test_tombstones_and_topics(loaded: Loaded) -> None:
    batch = [("a", Message(b"1", b"k")), ("b", Message(b"2", b"k")), ("a", Message(None, b"k"))]
    assert await in_thread(loaded, [batch]) == 3
    assert [message.body for message in await consume(loaded, "a", 2)] == [b"1", None]
    assert [message.body for message in await consume(loaded, "b", 1)] == [b"2"]


async def test_what_came_before_an_error_stays_published(loaded: Loaded) -> None:
    def batches() -> Iterable[list[tuple[str, Message]]]:
        yield [("orders", Message(b"1"))]
        raise DecodeError("line 2")

    received: list[Placed] = []
    with pytest.raises(DecodeError, match="line 2"):
        await in_thread(loaded, batches(), received)
    assert [len(each) for each in received] == [1]
    assert len(await consume(loaded, "orders", 1)) == 1


async def test_a_broker_that_cannot_be_reached(project: Path, loaded: Loaded) -> None:
    (project / ".bridge").write_text("a file where the directory should be")
    with pytest.raises(BrokerUnavailable):
        await in_thread(loaded, [[("orders", Message(b"1"))]])


async def in_thread(
    loaded: Loaded, batches: Iterable[list[tuple[str, Message]]], received: list[Placed] | None = None
) -> int:
    """Run `publish`, which has its own event loop, beside the loop of the test."""
    return await asyncio.to_thread(
        publish, loaded, Destination("local", None, None), batches, ([] if received is None else received).append
    )
