"""Reading of a topic with a client outside any group."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from bridge.brokers.base import LogRanges, ReadOptions
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.connection import Connection
from bridge.brokers.kafka.fetcher import Fetcher
from bridge.brokers.kafka.log.compression import OpenBatches, TakeBudget
from bridge.brokers.kafka.log.partition_log import PartitionLog
from bridge.brokers.kafka.offset_lookup import OffsetLookup
from bridge.core.errors import BrokerError, BrokerUnavailable
from bridge.core.message import Message, Position

_PING_SECONDS = 10.0
"""Seconds without records after which the cluster is pinged: the client waits silently."""

_BATCH = 500


async def read(
    connection: Connection, cluster: Cluster, options: ReadOptions
) -> AsyncIterator[tuple[Position, Message]]:
    """See `ReadableBroker.read`. Uncommitted messages of a transaction are not read.

    A message that cannot be parsed comes with `unreadable` set. When a partition cannot be read further, the others are
    read to their end first. Raises: BrokerError, BrokerUnavailable.
    """
    topic = options.topic
    # A request for a missing topic by its name might create it
    count = (await cluster.topics()).get(topic, 0)
    if not count:
        raise BrokerError(f"{connection.name}: there is no topic {topic}")
    if options.partition is not None and options.partition not in range(count):
        raise BrokerError(f"{connection.name}: {topic} has no partition {options.partition}; it has {count}, from 0")
    if options.ranges is None:
        partitions = [TopicPartition(topic, number) for number in range(count) if options.partition in (None, number)]
        async with aclosing(OffsetLookup(connection)) as lookup:
            begin, ends = await lookup.ends(partitions, f"read {topic}")
        starts = {tp: options.first(begin[tp], ends[tp]) for tp in partitions}
    else:
        partitions = [TopicPartition(topic, number) for number in options.ranges if number < count]
        starts = {tp: options.ranges[tp.partition][0] for tp in partitions}
        ends = {tp: options.ranges[tp.partition][1] for tp in partitions}
    async for found in scan(
        connection, cluster, starts, None if options.follow else ends, "read_committed", f"read {topic}"
    ):
        yield found


async def scan(
    connection: Connection,
    cluster: Cluster,
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int] | None,
    isolation: str,
    what: str,
) -> AsyncIterator[tuple[Position, Message]]:
    """Messages of several partitions, from offsets on.

    ends: offsets before which reading ends, which the caller may lower meanwhile; None: never.
    isolation: `read_committed` or `read_uncommitted`. what: for an error. Raises: BrokerError, BrokerUnavailable.
    """
    config = connection.config
    open_batches = OpenBatches(config.max_batch)
    logs = {
        tp: PartitionLog(
            tp.topic,
            tp.partition,
            start,
            bounds=connection.bounds,
            low_water=config.fetch_partition_bytes // 2,
            treatment=lambda unreadable: "dead_letter",
            open_batches=open_batches,
        )
        for tp, start in starts.items()
    }
    changed = asyncio.Event()

    def gone(tp: TopicPartition, offset: int) -> None:
        logs[tp].stop(f"offset {offset} is out of range: retention has deleted it meanwhile")
        changed.set()

    fetcher = Fetcher(connection, isolation=isolation, wake=changed.set, out_of_range=gone)
    await fetcher.start()
    try:
        fetcher.assign(logs)
        async for position, message in _messages(connection, cluster, fetcher, logs, ends, changed, open_batches, what):
            yield position, message
    finally:
        await fetcher.stop()


async def _messages(
    connection: Connection,
    cluster: Cluster,
    fetcher: Fetcher,
    logs: Mapping[TopicPartition, PartitionLog],
    ends: Mapping[TopicPartition, int] | None,
    changed: asyncio.Event,
    open_batches: OpenBatches,
    what: str,
) -> AsyncIterator[tuple[Position, Message]]:
    """Messages up to `ends`, or without an end."""
    while True:
        changed.clear()
        found = False
        open_batches.reset()
        for tp, log in logs.items():
            if ends is not None and log.position >= ends[tp]:
                log.close()
                continue
            for first, _, message in log.take(_BATCH, TakeBudget()):
                if ends is None or first < ends[tp]:
                    found = True
                    yield Position(cluster.id, tp.topic, tp.partition, first), message
        if (error := fetcher.take_error()) is not None:
            raise connection.translate(error, what) from error
        going = [log for tp, log in logs.items() if not log.stopped and (ends is None or log.position < ends[tp])]
        if not going:
            break
        fetcher.assign({tp: log for tp, log in logs.items() if log in going})
        if not found and not open_batches.refused:
            try:
                # `wait_for` of Python 3.11 loses a cancellation that comes with the event
                async with asyncio.timeout(_PING_SECONDS):
                    await changed.wait()
            except TimeoutError:
                await cluster.ping()
                if problems := [f"{log}: {log.cursor.problem}" for log in going if log.cursor.problem]:
                    raise BrokerError(f"{connection.name}: {'; '.join(problems)}") from None
    stopped = [f"{log}: {log.stopped}" for log in logs.values() if log.stopped]
    if stopped:
        raise BrokerError(f"{connection.name}: {'; '.join(stopped)}")


async def ranges(connection: Connection, cluster: Cluster, lookup: OffsetLookup, topic: str) -> LogRanges:
    """See `LogBroker.ranges`. A topic whose settings this principal may not read counts as compacted."""
    count = (await cluster.topics()).get(topic, 0)
    if not count:
        raise BrokerError(f"{connection.name}: there is no topic {topic}")
    begin, end = await lookup.ends([TopicPartition(topic, each) for each in range(count)], f"read {topic}")
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic)]
    try:
        answers = await cluster.ask("read the settings of a topic", lambda admin: admin.describe_configs(resources))
    except BrokerUnavailable:
        raise
    except BrokerError:  # a cluster without this request
        answers = []
    policies = [
        entry[1]
        for answer in answers
        for code, _, _, _, entries, *_ in answer.resources
        if not code
        for entry in entries
        if entry[0] == "cleanup.policy"
    ]
    offsets = {tp.partition: (begin[tp], end[tp]) for tp in begin}
    return LogRanges(cluster.id, offsets, whole=bool(policies) and "compact" not in policies[0])
