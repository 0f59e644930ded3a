"""Reads a topic with a client that is in no group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.partition import message_of
from bridge.brokers.reading import ReadOptions
from bridge.errors import BrokerError
from bridge.message import Message, Position

_POLL_MS = 1000
_QUIET_POLLS = 10
"""Empty polls after which the cluster is asked whether it is there: the client waits silently."""


async def read(
    connection: Connection, cluster: Cluster, options: ReadOptions
) -> AsyncIterator[tuple[Position, Message]]:
    """See `ReadableBroker.read`. What a transaction has not committed is not read."""
    topic = options.topic
    # Asked for by its name, a topic that is not there might be made
    count = (await cluster.topics()).get(topic, 0)
    if not count:
        raise BrokerError(f"{connection.name}: no topic {topic}")
    if options.partition is not None and options.partition not in range(count):
        raise BrokerError(f"{connection.name}: {topic} has no partition {options.partition}; it has {count}, from 0")
    partitions = [TopicPartition(topic, number) for number in range(count) if options.partition in (None, number)]
    config = connection.config
    consumer = AIOKafkaConsumer(
        **connection.arguments,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_committed",
        max_partition_fetch_bytes=config.fetch_partition_bytes,
        fetch_max_bytes=config.fetch_bytes,
    )
    try:
        await connection.open(consumer.start)
        async for tp, record in _records(consumer, cluster, partitions, options):
            yield Position(cluster.id, topic, tp.partition, record.offset), message_of(record)
    except KafkaError as error:
        raise connection.translate(error, f"read {topic}") from error
    finally:
        await close(consumer.stop)


async def _records(
    consumer: AIOKafkaConsumer, cluster: Cluster, partitions: list[TopicPartition], options: ReadOptions
) -> AsyncIterator[tuple[TopicPartition, Any]]:
    consumer.assign(partitions)
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    for tp in partitions:
        consumer.seek(tp, options.first(begins[tp], ends[tp]))
    left, quiet = set(partitions), 0
    while True:
        if not options.follow:
            # By position: the last offsets may hold no records, where a transaction ends or a log is compacted
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
            if not left:
                return
        found = await consumer.getmany(*left, timeout_ms=_POLL_MS)
        quiet = 0 if found else quiet + 1
        if quiet >= _QUIET_POLLS:
            await cluster.ping()
            quiet = 0
        for tp, records in found.items():
            for record in records:
                if options.follow or record.offset < ends[tp]:
                    yield tp, record
