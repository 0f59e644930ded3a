"""Positions of a group read and moved from outside of it; see `bridge.brokers.positions.PositionedBroker`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalGenerationError, KafkaError, UnknownMemberIdError
from aiokafka.structs import OffsetAndMetadata

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.kafka.admin_requests import GroupFacts, GroupsRequest, group_facts
from bridge.brokers.kafka.cluster import Cluster
from bridge.brokers.kafka.commits import decode_metadata, decode_stamp, encode_metadata
from bridge.brokers.kafka.connection import Connection, close
from bridge.brokers.kafka.offset_lookup import OffsetLookup
from bridge.brokers.kafka.reading import scan as scan_partitions
from bridge.brokers.kafka.sdk_internals import send
from bridge.brokers.positions import GroupActive, GroupPosition, Move, Place, kept_done
from bridge.core.errors import BrokerUnavailable
from bridge.core.message import Message

_PASSING = (UnknownMemberIdError, IllegalGenerationError, CommitFailedError)
"""Answers to a commit from outside of a group that has members."""


async def positions(connection: Connection, cluster: Cluster, options: SubscribeOptions) -> list[GroupPosition]:
    """See `PositionedBroker.positions`. Offsets of transaction markers and compacted records count in the lag."""
    pattern = options.kafka.pattern
    counts = await cluster.topics()
    topics = [each for each in counts if each in options.topics or (pattern is not None and re.match(pattern, each))]
    partitions = [TopicPartition(topic, number) for topic in sorted(topics) for number in range(counts[topic])]
    if not partitions:
        return []
    committed = await cluster.committed(options.group, partitions)
    async with aclosing(OffsetLookup(connection, options.kafka.isolation)) as lookup:
        begin, end = await lookup.ends(partitions, "look up the ends of topics")
    facts = await _group(cluster, options.group)
    fresh = end if options.start == "latest" else begin
    found = []
    for tp in partitions:
        position = committed.get(tp)
        metadata = "" if position is None else position.metadata or ""
        start = fresh[tp] if position is None else max(position.offset, begin[tp])
        done = () if position is None else decode_metadata(position.offset, metadata)
        found.append(
            GroupPosition(
                tp.topic,
                tp.partition,
                begin[tp],
                end[tp],
                None if position is None else position.offset,
                start,
                tuple(each for each in done if each >= start),
                "" if facts is None else facts.owners.get((tp.topic, tp.partition), ""),
                decode_stamp(metadata),
            )
        )
    return found


async def offsets_at(connection: Connection, places: Mapping[Place, GroupPosition], time: float) -> dict[Place, int]:
    """See `PositionedBroker.offsets_at`."""
    wanted = {TopicPartition(*place): max(0, int(time * 1000)) for place in places}
    async with aclosing(OffsetLookup(connection)) as lookup:
        found = await lookup.at_times(wanted, "look up offsets by time")
    result = {}
    for place, position in places.items():
        at = found.get(TopicPartition(*place))
        result[place] = position.end if at is None else min(max(at.offset, position.begin), position.end)
    return result


async def scan(
    connection: Connection, cluster: Cluster, options: SubscribeOptions, ranges: dict[Place, tuple[int, int]]
) -> AsyncIterator[tuple[Place, int, Message]]:
    """See `PositionedBroker.scan`."""
    starts = {TopicPartition(*place): start for place, (start, end) in ranges.items() if start < end}
    ends = {TopicPartition(*place): ranges[place][1] for place in ranges}
    async for position, message in scan_partitions(
        connection, cluster, starts, ends, options.kafka.isolation, "read the topics of a source"
    ):
        place = (position.topic, position.partition)
        if place in ranges:
            yield place, position.offset, message
        if place not in ranges:
            ends[TopicPartition(*place)] = -1


async def move(
    connection: Connection, cluster: Cluster, options: SubscribeOptions, moves: Mapping[Place, Move]
) -> None:
    """See `PositionedBroker.move`. The coordinator refuses the commit when a member has joined meanwhile."""
    active = GroupActive(f"group {options.group} has members, which alone can move its position")
    facts = await _group(cluster, options.group)
    if facts is not None and facts.members:
        raise active
    partitions = [TopicPartition(*place) for place in moves]
    committed = await cluster.committed(options.group, partitions)
    offsets = {}
    for tp in partitions:
        given, position = moves[tp.topic, tp.partition], committed.get(tp)
        done: list[int] = []
        if position is not None:
            done = kept_done(position.offset, decode_metadata(position.offset, position.metadata or ""), given.to)
        offsets[tp] = OffsetAndMetadata(given.to, encode_metadata(given.to, done, given.stamp))
    consumer: Any = AIOKafkaConsumer(
        **connection.arguments, group_id=options.group, enable_auto_commit=False, auto_offset_reset="none"
    )
    what = f"move the position of group {options.group}"
    try:
        consumer.assign(partitions)
        await connection.open(consumer.start)
        # One request: the coordinator stores all positions, or none
        await asyncio.wait_for(consumer.commit(offsets), connection.config.request_timeout)
    except _PASSING as error:
        raise active from error
    except (KafkaError, TimeoutError) as error:
        raise connection.translate(error, what) from error
    finally:
        await close(consumer)


async def _group(cluster: Cluster, group: str) -> GroupFacts | None:
    """Facts about the group; None where its coordinator does not describe it."""

    async def describe(admin: Any) -> GroupFacts:
        node = await admin.find_coordinator(group)
        return group_facts(await send(admin, GroupsRequest([group]), node))[group]

    try:
        facts = await cluster.ask(f"describe the group {group}", describe)
    except BrokerUnavailable:
        return None  # older servers and missing rights: only the names of members are lacking
    return None if facts.error else facts
