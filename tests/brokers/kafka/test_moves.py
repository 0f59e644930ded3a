"""Lag and moves of positions on Kafka: holes of transactions, compaction and retention; topics by pattern; metadata."""

from __future__ import annotations

import asyncio
import zlib
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from bridge.app.composition import load_config
from bridge.app.operations.sources.positions import lag, plan, seek_directly
from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka.commits import METADATA_LIMIT, decode_metadata, decode_stamp, encode_metadata
from bridge.brokers.positions import MovableSubscription, Move, Moved
from bridge.config.model.sources import KafkaSourceConfig
from bridge.config.source import Loaded
from bridge.core.message import Message
from tests.brokers.consumer import Assignments, numbered, numbers, take
from tests.brokers.kafka.harness import KafkaHarness, unique
from tests.brokers.kafka.test_positions import delete_before, transactional_topic
from tests.kit.waiting import eventually

STAMP = 1_700_000_000_000

CONFIG = """
engine: {{type: embedded}}
brokers: {{kafka: {{type: kafka, bootstrap_servers: "{bootstrap}"}}}}
sources:
  orders: {{broker: kafka, {topics}, group: {group}, codec: json, no_match: ignore}}
"""


def configured(tmp_path: Path, harness: KafkaHarness, group: str, topics: str | None = None) -> Loaded:
    path = tmp_path / "bridge.yaml"
    topics = f"topics: [{group}]" if topics is None else topics
    path.write_text(CONFIG.format(bootstrap=harness.bootstrap, topics=topics, group=group))
    return load_config([path])


async def test_holes_of_transactions_are_no_messages(tmp_path: Path, harness: KafkaHarness) -> None:
    """24 offsets: 10 messages, 10 aborted ones, and 4 markers."""
    topic = await transactional_topic(harness)
    loaded = configured(tmp_path, harness, topic)
    found = await plan(loaded, "orders", "end")
    [line] = found["partitions"]
    assert (line["from"], line["to"], line["skipped"], line["again"], line["exact"]) == (0, 24, 10, 0, True)
    await seek_directly(loaded, "orders", {f"{topic}/0": 24})
    [line] = (await plan(loaded, "orders", "beginning"))["partitions"]
    assert (line["from"], line["to"], line["skipped"], line["again"], line["exact"]) == (24, 0, 0, 10, True)
    # Into the aborted messages: the next message is 10
    await seek_directly(loaded, "orders", {f"{topic}/0": 8})
    broker = await harness.broker()
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    assert numbers(await take(subscription, 5)) == list(range(10, 15))
    assert isinstance(subscription, MovableSubscription)
    assert await subscription.move({(topic, 0): Move(3, 2 * STAMP)}) == {(topic, 0): Moved(3, 8)}
    again = await take(subscription, 7)
    assert numbers(again) == [3, 4, *range(10, 15)]
    for delivery in again:
        await delivery.complete()
    await subscription.close()
    [line] = await lag(loaded, "orders")
    assert (line["lag"], line["oldest"]) == (0, None) or line["committed"] < 24


async def test_an_open_transaction_is_the_end(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("open")
    await harness.create_topic(topic, 1)
    await (await harness.broker()).publish(topic, numbered(3))
    producer = AIOKafkaProducer(bootstrap_servers=harness.bootstrap, transactional_id=topic)
    await producer.start()
    await producer.begin_transaction()
    await producer.send_and_wait(topic, b"3")
    loaded = configured(tmp_path, harness, topic)
    [line] = await lag(loaded, "orders")
    assert (line["end"], line["lag"]) == (3, 3)
    [line] = (await plan(loaded, "orders", "end"))["partitions"]
    assert (line["to"], line["skipped"]) == (3, 3)
    await producer.commit_transaction()
    await producer.stop()

    async def has_marker() -> bool:
        end: int = (await lag(loaded, "orders"))[0]["end"]
        return end == 5  # the message and its marker

    await eventually(has_marker)


async def test_retention_before_the_position_is_named(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("deleted")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    await broker.publish(topic, numbered(10))
    await broker.move(SubscribeOptions((topic,), topic), {(topic, 0): Move(2, STAMP)})
    await delete_before(harness, topic, 6)
    loaded = configured(tmp_path, harness, topic)
    [line] = await lag(loaded, "orders")
    assert (line["committed"], line["begin"], line["lag"]) == (2, 6, 4)
    assert "retention has deleted 4 offsets" in line["note"]
    assert line["oldest_seconds"] is not None
    [line] = (await plan(loaded, "orders", "0"))["partitions"]
    assert (line["from"], line["to"], line["again"], line["skipped"]) == (6, 6, 0, 0)
    assert "only the offsets from 6 to 10" in line["note"]
    # A position that the log no longer has stops the partition, and a move lets it continue without a restart
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    receiving = asyncio.create_task(take(subscription, 4))
    await eventually(lambda: "--to beginning" in "".join(subscription.stopped().values()), "stopped")
    assert isinstance(subscription, MovableSubscription)
    assert await subscription.move({(topic, 0): Move(6, STAMP + 1)}) == {(topic, 0): Moved(6, 2)}
    assert numbers(await receiving) == [6, 7, 8, 9]
    assert subscription.stopped() == {}


async def test_a_source_of_several_topics_by_pattern(tmp_path: Path, harness: KafkaHarness) -> None:
    prefix = unique("many")
    topics = [f"{prefix}.{name}" for name in ("a", "b")]
    broker = await harness.broker()
    for topic in topics:
        await harness.create_topic(topic, 2)
        await broker.publish(topic, numbered(8))
    loaded = configured(tmp_path, harness, prefix, f"kafka: {{pattern: '{prefix}\\..*'}}")
    lines = await lag(loaded, "orders")
    assert [(line["topic"], line["partition"]) for line in lines] == [(t, n) for t in topics for n in (0, 1)]
    assert sum(line["lag"] for line in lines) == 16
    options = SubscribeOptions((), prefix, kafka=KafkaSourceConfig(pattern=rf"{prefix}\..*"))
    listener = Assignments()
    subscription = await broker.subscribe(options, listener)
    await listener.until(lambda: len(listener.assigned_now) == 4)
    for delivery in await take(subscription, 16):
        await delivery.complete()
    await subscription.flush()
    found = await plan(loaded, "orders", "beginning", topics[1])
    assert found["active"]
    assert {(line["topic"], line["to"]) for line in found["partitions"]} == {(topics[1], 0)}
    assert found["again"] == 8
    assert isinstance(subscription, MovableSubscription)
    moves = {(line["topic"], line["partition"]): Move(line["to"], STAMP) for line in found["partitions"]}
    assert (await subscription.move(moves)).keys() == moves.keys()
    again = await take(subscription, 8)
    assert {delivery.position.topic for delivery in again} == {topics[1]}


async def test_a_scan_of_a_compacted_topic_ends(tmp_path: Path, harness: KafkaHarness) -> None:
    topic = unique("compacted")
    await harness.create_topic(
        topic, 1, cleanup_policy="compact", segment_ms="100", min_cleanable_dirty_ratio="0.001",
        max_compaction_lag_ms="100",
    )  # fmt: skip
    broker = await harness.broker()
    for number in range(100):
        await broker.publish(topic, [Message(b"%d" % number, b"key-%d" % (number % 3))])
    await asyncio.sleep(0.3)  # the age of a segment, in which only its last record lets the broker begin another one
    await broker.publish(topic, [Message(b"100", b"last")])
    loaded = configured(tmp_path, harness, topic)

    async def reached() -> object:
        return (await plan(loaded, "orders", "end"))["skipped"] == 4

    await eventually(reached, poll=0.5)
    [line] = (await plan(loaded, "orders", "end"))["partitions"]
    assert (line["to"], line["exact"]) == (101, True)
    # An offset that compaction has removed is a position like any other
    await broker.move(SubscribeOptions((topic,), topic), {(topic, 0): Move(5, STAMP)})
    subscription = await broker.subscribe(SubscribeOptions((topic,), topic), Assignments())
    assert numbers(await take(subscription, 4)) == [97, 98, 99, 100]
    [position] = await broker.positions(SubscribeOptions((topic,), topic))
    assert (position.committed, position.stamp) == (5, STAMP)


async def test_metadata_of_others_is_replaced(harness: KafkaHarness) -> None:
    """A tool that resets offsets leaves no metadata: the next move is applied."""
    topic = unique("reset")
    await harness.create_topic(topic, 1)
    broker = await harness.broker()
    await broker.publish(topic, numbered(5))
    options = SubscribeOptions((topic,), topic)
    await broker.move(options, {(topic, 0): Move(4, STAMP)})
    await broker.move(options, {(topic, 0): Move(2, STAMP + 1)})
    committed: Any = (await broker._cluster.committed(topic, [TopicPartition(topic, 0)]))[TopicPartition(topic, 0)]
    assert (committed.offset, decode_stamp(committed.metadata), decode_metadata(2, committed.metadata)) == (
        2, STAMP + 1, [],
    )  # fmt: skip


@given(
    st.integers(0, 2**40),
    st.lists(st.integers(0, 5000), unique=True).map(sorted),
    st.integers(0, 2**50),
)
def test_metadata_keeps_completed_offsets_and_the_stamp(base: int, above: list[int], stamp: int) -> None:
    done = [base + each for each in above]
    text = encode_metadata(base, done, stamp)
    assert len(text) <= METADATA_LIMIT
    assert decode_stamp(text) == stamp
    found = decode_metadata(base, text)
    assert found == done[: len(found)]
    # Versions without moves read the same offsets
    if text:
        raw = b64decode(text.removeprefix("bridge1:"), validate=True)
        bits = zlib.decompressobj().decompress(raw, (1 << 20) // 8 + 1)
        assert [base + at * 8 + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1] == found


@pytest.mark.parametrize("text", ["", "kafka-ui", "bridge1:", "bridge1:!!", "bridge1:AAAA", "bridge1:eJw="])
def test_metadata_of_other_programs_has_no_stamp(text: str) -> None:
    assert decode_stamp(text) == 0
