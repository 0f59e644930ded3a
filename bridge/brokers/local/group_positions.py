"""Positions of a group read and moved from outside of it; see `bridge.brokers.positions.PositionedBroker`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bridge.brokers.base import SubscribeOptions
from bridge.brokers.local.log import Fetch, Log
from bridge.brokers.local.membership import Membership, assign
from bridge.brokers.local.reading import READ_BYTES, READ_RECORDS
from bridge.brokers.local.threads import LogReader, LogWriter
from bridge.brokers.positions import GroupActive, GroupPosition, Move, Place
from bridge.core.message import Message


async def positions(reader: LogReader, directory: Path, options: SubscribeOptions) -> list[GroupPosition]:
    """See `PositionedBroker.positions`. Every offset has a message, unless retention has deleted it."""
    if not await reader.has_log():
        return []
    latest = options.start == "latest"
    found = await reader.query(lambda log: log.group_positions(options.group, options.topics, latest=latest))
    topics = await reader.query(lambda log: log.topics())
    owners = await reader.run(partial(_owners, Membership(directory, options.group, options.topics), topics, found))
    return [replace(position, member=owners.get(position.place, "")) for _, position in found]


def _owners(
    membership: Membership, topics: Mapping[str, int], found: Sequence[tuple[int, GroupPosition]]
) -> dict[Place, str]:
    """Members that own a partition: those that the members themselves compute, where its lock is held."""
    members = membership.others()
    processes = {member.id: member.process for member in members}
    owners = assign(members, topics)
    return {
        each.place: processes[owners[each.place]]
        for key, each in found
        if each.place in owners and membership.is_owned(key)
    }


async def offsets_at(reader: LogReader, places: Mapping[Place, GroupPosition], time: float) -> dict[Place, int]:
    """See `PositionedBroker.offsets_at`. Reads the records before the offset."""
    if not places or not await reader.has_log():
        return {}

    def count(log: Log) -> dict[Place, int]:
        found = {}
        for place, position in places.items():
            at = log.offset_at(log.partitions(place[0])[place[1]], time)
            found[place] = position.end if at is None else min(at, position.end)
        return found

    return await reader.query(count)


async def scan(reader: LogReader, ranges: dict[Place, tuple[int, int]]) -> AsyncIterator[tuple[Place, int, Message]]:
    """See `PositionedBroker.scan`."""
    for place in list(ranges):
        key = (await reader.query(partial(Log.partitions, name=place[0])))[place[1]]
        offset = ranges[place][0] if place in ranges else 0
        while place in ranges and offset < ranges[place][1]:
            fetch = Fetch(key, offset, READ_RECORDS, READ_BYTES)
            _, batches = await reader.query(partial(Log.fetch, partitions=[key], fetches=[fetch]))
            if not (found := list(batches[key].messages()) if key in batches else []):
                break
            for at, message in found:
                if place in ranges and at < ranges[place][1]:
                    yield place, at, message
            offset = found[-1][0] + 1


async def move(
    reader: LogReader, writer: LogWriter, directory: Path, options: SubscribeOptions, moves: Mapping[Place, Move]
) -> None:
    """See `PositionedBroker.move`. Owns the partitions meanwhile: a member that joins waits for them."""
    membership = Membership(directory, options.group, options.topics)
    active = GroupActive(f"group {options.group} has members with these partitions, which alone can move its position")
    await reader.run(membership.prepare)
    ids = {place: (await reader.query(partial(Log.partitions, name=place[0])))[place[1]] for place in moves}
    try:
        for key in ids.values():
            if not await reader.run(partial(membership.try_own, key)):
                raise active

        def work(log: Log) -> None:
            for place, key in ids.items():
                log.move(options.group, key, moves[place])

        await writer.submit(work)
    finally:
        await reader.run(partial(membership.disown, tuple(ids.values())))
