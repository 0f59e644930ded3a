"""Dead-letter format shared by all brokers: the most complete version that fits is written, once."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.brokers.dead_letter import ladder, write
from bridge.core import provenance
from bridge.core.errors import BrokerUnavailable, PublishFailed, TargetRefused
from bridge.core.message import Message, Position, Unreadable
from bridge.core.provenance import TOMBSTONE, Cause

POSITION = Position("cluster", "orders", 3, 42)
CAUSE = Cause("no_route", "no rule matched", "NoRoute", "orders", "r2", ("r1", "r2"), 4, "abc", "m-1")

NAMES = st.text(max_size=40).filter(lambda name: not name.startswith("bridge."))
BYTES = st.integers(0, 3000).flatmap(
    lambda size: st.binary(min_size=min(size, 20), max_size=20).map(lambda b: b * size)
)
MESSAGES = st.builds(
    Message,
    body=st.none() | BYTES,
    key=st.none() | st.binary(max_size=300),
    headers=st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=500)), max_size=5).map(tuple),
    timestamp=st.none() | st.floats(0, 2e9),
    message_id=st.none() | st.text(max_size=20),
    content_type=st.none() | st.just("application/json"),
    unreadable=st.none()
    | st.builds(Unreadable, st.just("crc"), st.just("rotten"), st.booleans(), st.none() | st.just(7)),
)
CAUSES = st.builds(
    Cause,
    reason=st.just("decode_error"),
    detail=st.text(max_size=400),
    error=st.just("DecodeError"),
    source=st.just("orders"),
    route=st.none() | st.just("r2"),
    executed=st.lists(st.text("abc", min_size=1, max_size=30), max_size=60).map(tuple),
    message_id=st.none() | st.text(max_size=2000),
)


class Topic:
    """Topic that accepts messages up to `limit`."""

    def __init__(self, limit: int, *, keyless_tombstones: bool = True) -> None:
        self.limit = limit
        self.keyless_tombstones = keyless_tombstones
        self.taken: list[Message] = []
        self.refused = 0

    async def send(self, dead_letter: Message) -> None:
        neither = dead_letter.body is None and dead_letter.key is None
        if dead_letter.size > self.limit or (neither and not self.keyless_tombstones):
            self.refused += 1
            raise PublishFailed(f"{dead_letter.size} bytes are more than {self.limit}")
        self.taken.append(dead_letter)

    async def write(self, message: Message, cause: Cause) -> None:
        await write(self.send, "orders.dlq", message, POSITION, cause, keyless_tombstones=self.keyless_tombstones)


@given(MESSAGES, CAUSES, st.booleans(), st.floats(0, 1))
async def test_the_most_complete_letter_that_fits_is_written_once(
    message: Message, cause: Cause, keyless: bool, share: float
) -> None:
    dead_letters = list(ladder(message, POSITION, cause, keyless_tombstones=keyless))
    smallest, largest = min(each.size for each in dead_letters), max(each.size for each in dead_letters)
    topic = Topic(smallest + round(share * (largest - smallest)), keyless_tombstones=keyless)
    await topic.write(message, cause)
    [dead_letter] = topic.taken
    assert dead_letter == next(each for each in dead_letters if each.size <= topic.limit)
    assert topic.refused == dead_letters.index(dead_letter)
    received = dict(dead_letter.headers)
    missing = received.get(provenance.TRUNCATED, b"").decode().split(", ")
    assert (received[provenance.REASON], received[provenance.SOURCE]) == (b"decode_error", b"orders")
    place = (provenance.CLUSTER, provenance.TOPIC, provenance.PARTITION, provenance.OFFSET)
    assert [received[name] for name in place] == [b"cluster", b"orders", b"3", b"42"]
    # Every part is present, or named as missing
    assert dead_letter.body == message.body or "payload" in missing or TOMBSTONE in missing
    assert (dead_letter.key == message.key) != ("key" in missing)
    own = tuple(each for each in dead_letter.headers if not each[0].startswith("bridge."))
    assert (own == message.headers and dead_letter.content_type == message.content_type) != ("headers" in missing)
    assert (received.get(provenance.DETAIL) == cause.detail.encode("utf-8", "replace")) != ("detail" in missing)
    assert (received.get(provenance.EXECUTED, b"") == ",".join(cause.executed).encode()) != ("executed" in missing)
    assert (provenance.MESSAGE_ID in received) == (cause.message_id is not None and "message-id" not in missing)
    # The smallest dead letter does not grow with the message
    assert smallest < 700


@given(MESSAGES, CAUSES)
def test_letters_of_the_last_steps_shrink(message: Message, cause: Cause) -> None:
    dead_letters = list(ladder(message, POSITION, cause))
    cuts = {"detail", "executed", "message-id"}
    missing = [dict(each.headers).get(provenance.TRUNCATED, b"").decode().split(", ") for each in dead_letters]
    cut = [each.size for each, names in zip(dead_letters, missing, strict=True) if cuts & set(names)]
    assert cut == sorted(set(cut), reverse=True)
    assert len(dead_letters) <= 11
    assert all(one != other for one, other in pairwise(dead_letters))


def test_the_steps_of_a_message_that_has_everything() -> None:
    cause = replace(CAUSE, detail="d" * 1000, executed=("r" * 500,), message_id="m" * 800)
    message = Message(b"b" * 100, b"k", (("h", b"1"),))
    steps = [dict(each.headers).get(provenance.TRUNCATED) for each in ladder(message, POSITION, cause)]
    assert steps == [
        None,
        b"payload",
        b"payload, headers",
        b"payload, headers, key",
        b"payload, headers, key, detail",
        b"payload, headers, key, detail, executed",
        b"payload, headers, key, detail, message-id",
        b"payload, headers, key, detail, executed, message-id",
    ]


def test_what_was_missing_before_stays_named_when_a_replay_dies_again() -> None:
    first = list(ladder(Message(b"body", b"k", (("h", b"1"),)), POSITION, CAUSE))[1]
    again = replace(CAUSE, replayed=True)
    [whole, *_] = ladder(first, Position("cluster", "orders.dlq", 0, 1), again)
    assert dict(whole.headers)[provenance.TRUNCATED] == b"payload"
    *_, last = ladder(first, Position("cluster", "orders.dlq", 0, 1), again)
    assert dict(last.headers)[provenance.TRUNCATED].startswith(b"payload, headers")
    # From any other sender it is forged
    [whole, *_] = ladder(first, POSITION, CAUSE)
    assert provenance.TRUNCATED not in dict(whole.headers)


def test_an_unreadable_message_without_bytes_can_be_sent_by_a_broker_that_wants_a_body() -> None:
    unreadable = Message(None, unreadable=Unreadable("crc", "rotten"))
    for dead_letter in ladder(unreadable, POSITION, CAUSE, keyless_tombstones=False):
        assert dead_letter.body == b""
        assert dict(dead_letter.headers)[provenance.TRUNCATED].startswith(b"payload")
    for dead_letter in ladder(Message(None, b"k"), POSITION, CAUSE, keyless_tombstones=False):
        assert dead_letter.body is not None or dead_letter.key is not None


async def test_a_topic_that_refuses_the_smallest_letter_is_named_with_its_reason() -> None:
    topic = Topic(10)
    with pytest.raises(
        BrokerUnavailable, match=r"cluster/orders/3@42 cannot be written to orders.dlq: .* more than 10"
    ):
        await topic.write(Message(b"x" * 100, b"k"), CAUSE)
    assert not topic.taken


@pytest.mark.parametrize("error", [BrokerUnavailable("away"), TargetRefused("no such queue")])
async def test_only_a_refusal_of_the_message_makes_it_smaller(error: Exception) -> None:
    tried: list[Message] = []

    async def send(dead_letter: Message) -> None:
        tried.append(dead_letter)
        raise error

    with pytest.raises(BrokerUnavailable, match=str(error)):
        await write(send, "orders.dlq", Message(b"x" * 100, b"k"), POSITION, CAUSE)
    assert len(tried) == 1
