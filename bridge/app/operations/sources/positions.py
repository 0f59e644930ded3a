"""Operations on the positions of sources: lag of each partition, and moves to other offsets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

from bridge.app import state
from bridge.app.composition import build_broker, require, subscribe_options
from bridge.app.operations.sources.states import check_engine, engine_name
from bridge.brokers.base import BacklogBroker, Broker, ReadOptions, SubscribeOptions, readable
from bridge.brokers.positions import GroupPosition, Move, Place, PositionedBroker, place_name, place_of
from bridge.config.model.types import parse_duration
from bridge.config.source import Loaded
from bridge.core.errors import BrokerError, InvalidCommand
from bridge.engines.base import Engine
from bridge.engines.entities.source_seeks import Seeks, SourceSeeks
from bridge.ops.audit import AuditedChange, audited_async, user
from bridge.routing.identifier import parse_time
from bridge.system.clock import time_of

OLDEST_SECONDS = 5.0
"""Seconds for reading the oldest messages of a source."""
COUNT_SECONDS = 10.0
"""Seconds for counting the messages of a move one by one. Afterwards their number is known from offsets only."""
_REASON_LIMIT = 500

_NO_COUNT = "Service Bus states the number of messages only to clients with manage rights"


# -- lag


async def lag(loaded: Loaded, source: str) -> list[dict[str, Any]]:
    """Lag of each partition of a source. Joins no group, changes nothing, needs no daemon.

    Each line has source, topic, partition (None for a queue), committed, begin, end, done (completed messages above the
    position), lag (messages, or offsets on Kafka), oldest (time of the oldest unprocessed message), oldest_seconds,
    member, and note. None stands for facts that the broker does not state.
    Raises: LookupError, BrokerError, BrokerUnavailable.
    """
    require("source", source, loaded.config.sources)
    options = subscribe_options(loaded, source)
    async with _reading(loaded, source) as broker:
        if not isinstance(broker, PositionedBroker):
            if loaded.config.sources[source].sessions:
                note = f"{_NO_COUNT}; entities with sessions cannot be peeked"
                return [unknown(source, topic, note) for topic in options.topics]
            return [await _queue_lag(broker, source, topic) for topic in options.topics]
        found = await broker.positions(options)
        oldest, complete = await _oldest(broker, options, found)
    lines = []
    now = time.time()
    for each in found:
        since = oldest.get(each.place)
        notes = []
        if each.lost:
            notes.append(f"retention has deleted {each.lost:,} offsets before the group read them")
        if each.committed is None:
            notes.append("the group has no position yet")
        if each.place not in complete:
            notes.append("the oldest message was not found in time")
        lines.append(
            {
                "source": source, "topic": each.topic, "partition": each.number, "committed": each.committed,
                "begin": each.begin, "end": each.end, "done": len(each.done), "lag": each.lag,
                "oldest": None if since is None else time_of(since),
                "oldest_seconds": None if since is None else round(max(0.0, now - since), 1),
                "member": each.member or None, "note": "; ".join(notes),
            }
        )  # fmt: skip
    return lines


def unknown(source: str, topic: str | None, note: str) -> dict[str, Any]:
    """Line of `lag` without facts. note: the reason."""
    facts = ("partition", "committed", "begin", "end", "done", "lag", "oldest", "oldest_seconds", "member")
    return {"source": source, "topic": topic, **dict.fromkeys(facts), "note": note}


async def _queue_lag(broker: Broker, source: str, topic: str) -> dict[str, Any]:
    """Line of an entity of Service Bus, which has no positions: only a peek at its oldest message."""
    line = unknown(source, topic, _NO_COUNT)
    try:
        async with (
            asyncio.timeout(OLDEST_SECONDS),
            aclosing(cast(Any, readable(broker).read(ReadOptions(topic)))) as messages,
        ):
            async for _, message in messages:
                if message.timestamp is not None:
                    line["oldest"] = time_of(message.timestamp)
                    line["oldest_seconds"] = round(max(0.0, time.time() - message.timestamp), 1)
                return line
        line["lag"] = 0
    except TimeoutError:
        line["note"] += "; the queue was not read in time"
    except BrokerError as error:
        line["note"] += f"; a peek is not possible: {error}"
    return line


async def _oldest(
    broker: PositionedBroker, options: SubscribeOptions, found: Sequence[GroupPosition]
) -> tuple[dict[Place, float], set[Place]]:
    """Times of the first messages that are not completed, and the partitions that were read in time."""
    ranges = {each.place: (each.start, each.end) for each in found if each.lag}
    done = {each.place: frozenset(each.done) for each in found}
    oldest: dict[Place, float] = {}
    try:
        async with asyncio.timeout(OLDEST_SECONDS), aclosing(cast(Any, broker.scan(options, ranges))) as messages:
            async for place, offset, message in messages:
                if offset not in done[place]:
                    del ranges[place]
                    if message.timestamp is not None:
                        oldest[place] = message.timestamp
        ranges.clear()
    except (TimeoutError, BrokerError):
        pass  # the other facts are known
    return oldest, {each.place for each in found if each.place not in ranges}


# -- plan of a move


@dataclass(frozen=True, slots=True)
class Target:
    """Place to move to. value: an offset, or seconds since the Unix epoch."""

    kind: Literal["beginning", "end", "offset", "time"]
    value: float = 0


def parse_target(text: str, now: float) -> Target:
    """Parse `beginning`, `end`, an offset like `42`, an RFC 3339 time, or a duration like `2h-ago`.

    now: seconds since the Unix epoch. Raises: ValueError.
    """
    if text == "beginning":
        return Target("beginning")
    if text == "end":
        return Target("end")
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return Target("offset", int(text))
    if text.endswith("-ago"):
        return Target("time", now - parse_duration(text.removesuffix("-ago")))
    try:
        return Target("time", parse_time(text, "the time").timestamp())
    except InvalidCommand:
        raise ValueError(
            f"{text!r} is not one of beginning, end, an offset like 42, a time like 2030-01-31T08:00:00Z, or a "
            "duration like 2h-ago"
        ) from None


async def plan(
    loaded: Loaded, source: str, to: str, topic: str | None = None, partition: int | None = None
) -> dict[str, Any]:
    """Effect of a move, without making it.

    The result has `partitions`, `active` (the group has members), `retention` (by engine), and the sums `again`,
    `skipped` and `older`. Each partition has topic, partition, from, to, again (messages read again), skipped,
    older (of those read again, older than the shortest retention of an engine), exact (False where numbers come from
    offsets and are upper bounds), member and note.
    Raises: LookupError, InvalidCommand, BrokerError, BrokerUnavailable.
    """
    require("source", source, loaded.config.sources)
    try:
        target = parse_target(to, time.time())
    except ValueError as error:
        raise InvalidCommand(f"`to`: {error}") from None
    options = subscribe_options(loaded, source)
    kept = _retention(loaded, source)
    before = min((each["seconds"] for each in kept if each["seconds"] is not None), default=None)
    async with _reading(loaded, source) as broker:
        positioned = _positioned(broker, source)
        found = await positioned.positions(options)
        active = any(each.member for each in found)
        chosen = _chosen(source, found, topic, partition)
        targets = await _resolve(positioned, chosen, target)
        counts = await _count(positioned, options, chosen, targets, None if before is None else time.time() - before)
    lines: list[dict[str, Any]] = []
    for each in chosen:
        to_offset = targets[each.place]
        again, skipped, older, exact = counts[each.place]
        note = ""
        if target.kind == "offset" and to_offset != target.value:
            note = f"the log has only the offsets from {each.begin} to {each.end}"
        lines.append(
            {
                "topic": each.topic, "partition": each.number, "from": each.start, "to": to_offset, "again": again,
                "skipped": skipped, "older": older, "exact": exact, "member": each.member or None, "note": note,
            }
        )  # fmt: skip
    sums = {name: sum(line[name] for line in lines) for name in ("again", "skipped", "older")}
    return {"source": source, "active": active, "retention": kept, "partitions": lines, **sums}


def _retention(loaded: Loaded, source: str) -> list[dict[str, Any]]:
    """Engines on which rules of the source start instances, with their retention and these rules.

    seconds: time that finished instances are kept; None: without limit. limit: most finished instances.
    """
    found: dict[str, list[str]] = {}
    for route in loaded.config.routes:
        if source in route.from_ and (route.schedule is not None or route.start_or_raise is not None):
            for engine in route.find:
                found.setdefault(engine, []).append(route.name)
    engines = loaded.config.engines
    return [
        {
            "engine": name,
            "seconds": engines[name].retention,
            "limit": getattr(engines[name], "retention_count", None),
            "routes": routes,
        }
        for name, routes in found.items()
    ]


def _chosen(
    source: str, found: Sequence[GroupPosition], topic: str | None, partition: int | None
) -> list[GroupPosition]:
    """Positions in the chosen partitions. Raises: LookupError when there is none."""
    topics = list(dict.fromkeys(each.topic for each in found))
    if topic is not None:
        require("topic", topic, topics, f"`bridge sources lag {source}` lists the topics")
    if partition is not None and topic is None and len(topics) > 1:
        raise InvalidCommand(f"the source {source} reads several topics: add `topic` ({', '.join(topics)})")
    chosen = [each for each in found if topic in (None, each.topic) and partition in (None, each.number)]
    if not chosen:
        what = "topic" if partition is None else f"partition {partition}"
        raise LookupError(f"the source {source} has no {what}; `bridge sources lag {source}` lists its partitions")
    return chosen


async def _resolve(broker: PositionedBroker, chosen: Sequence[GroupPosition], target: Target) -> dict[Place, int]:
    """Offset to move to, by partition, inside of the log."""
    if target.kind == "time":
        return await broker.offsets_at({each.place: each for each in chosen}, target.value)
    found = {}
    for each in chosen:
        offset = {"beginning": each.begin, "end": each.end}.get(target.kind, int(target.value))
        found[each.place] = min(max(offset, each.begin), each.end)
    return found


async def _count(
    broker: PositionedBroker,
    options: SubscribeOptions,
    chosen: Sequence[GroupPosition],
    targets: Mapping[Place, int],
    old: float | None,
) -> dict[Place, tuple[int, int, int, bool]]:
    """Messages read again, skipped and older than a time, and True where they were counted one by one.

    old: seconds since the Unix epoch; None: no message counts as old.
    """
    ranges: dict[Place, tuple[int, int]] = {}
    done = {each.place: frozenset(each.done) for each in chosen}
    for each in chosen:
        to = targets[each.place]
        # A move back also repeats what was completed above the position
        end = max(each.start, each.done[-1] + 1 if each.done else 0)
        if to != each.start:
            ranges[each.place] = (to, end) if to < each.start else (each.start, to)
    counts = {each.place: [0, 0, 0] for each in chosen}
    start = {each.place: each.start for each in chosen}
    left = dict(ranges)
    try:
        async with asyncio.timeout(COUNT_SECONDS), aclosing(cast(Any, broker.scan(options, left))) as messages:
            async for place, offset, message in messages:
                count = counts[place]
                if targets[place] < start[place]:
                    if offset < start[place] or offset in done[place]:
                        count[0] += 1
                        count[2] += old is not None and message.timestamp is not None and message.timestamp < old
                elif offset not in done[place]:
                    count[1] += 1
        return {place: (*found, True) for place, found in counts.items()}  # type: ignore[misc]  # of three numbers
    except TimeoutError:
        pass
    at_most = await broker.offsets_at({each.place: each for each in chosen}, old) if old is not None else {}
    found = {}
    for each in chosen:
        to = targets[each.place]
        back, ahead = max(0, each.start - to), max(0, to - each.start)
        older = max(0, min(at_most.get(each.place, 0), each.start) - to) if back else 0
        found[each.place] = (back + (len(each.done) if back else 0), ahead, older, back == ahead == 0)
    return found


# -- move


async def seek(
    loaded: Loaded, engine: Engine, source: str, positions: Mapping[str, int], by: str, reason: str
) -> Seeks:
    """Store moves that the daemons of a source apply.

    positions: offsets by partition, like `orders/0`.
    Raises: LookupError, InvalidCommand, BrokerError, BrokerUnavailable, EngineError.
    """
    check_engine(loaded, engine, source)
    store = SourceSeeks(engine)
    waiting = await store.of(source)
    moves = await _moves(loaded, source, positions, waiting)
    now = time.time()
    given = {
        place_name(place): {
            "to": move.to, "stamp": move.stamp, "by": by, "at": now, "reason": reason[:_REASON_LIMIT],
        }
        for place, move in moves.items()
    }  # fmt: skip
    await store.seek(source, given)
    return given


async def seek_directly(loaded: Loaded, source: str, positions: Mapping[str, int], reason: str | None = None) -> None:
    """Move the positions of a source whose group has no members, without a daemon and an engine. Writes an audit line.

    Raises: GroupActive, LookupError, InvalidCommand, BrokerError, BrokerUnavailable.
    """
    trail = state.trail(loaded, engine_name(loaded, source))
    change = AuditedChange(user(), "sources.seek", source, {"positions": positions, "directly": True}, reason)
    async with audited_async(trail, change):
        moves = await _moves(loaded, source, positions, {})
        broker = build_broker(loaded, loaded.config.sources[source].broker)
        await broker.start()
        try:
            await _positioned(broker, source).move(subscribe_options(loaded, source), moves)
        finally:
            await broker.stop()


async def _moves(
    loaded: Loaded, source: str, positions: Mapping[str, int], waiting: Mapping[str, Mapping[str, Any]]
) -> dict[Place, Move]:
    """Checked moves. Their stamp is later than every earlier one of these partitions, also where a clock was wrong."""
    require("source", source, loaded.config.sources)
    if not positions:
        raise InvalidCommand("`positions` is empty")
    try:
        wanted = {place_of(name): offset for name, offset in positions.items()}
    except ValueError as error:
        raise InvalidCommand(f"`positions`: {error}") from None
    async with _reading(loaded, source) as broker:
        found = {
            each.place: each for each in await _positioned(broker, source).positions(subscribe_options(loaded, source))
        }
    for place, offset in wanted.items():
        known = found.get(place)
        if known is None:
            raise LookupError(f"the source {source} has no partition {place_name(place)}")
        if not known.begin <= offset <= known.end:
            raise InvalidCommand(
                f"{place_name(place)} has only the offsets from {known.begin} to {known.end}, not {offset}"
            )
    earlier = [found[place].stamp for place in wanted] + [each["stamp"] for each in waiting.values()]
    stamp = max([time.time_ns() // 1_000_000, *(each + 1 for each in earlier)])
    return {place: Move(offset, stamp) for place, offset in wanted.items()}


def _positioned(broker: Broker, source: str) -> PositionedBroker:
    """The broker as one with positions. Raises: InvalidCommand."""
    if not isinstance(broker, PositionedBroker):
        raise InvalidCommand(
            f"the source {source} reads Service Bus, which has no positions: a completed message is gone. Publish "
            "messages again, or replay dead letters with `bridge dlq`"
        )
    return broker


@asynccontextmanager
async def _reading(loaded: Loaded, source: str) -> AsyncIterator[Broker]:
    """Broker of a source, prepared for reading alone. Raises: BrokerError, BrokerUnavailable."""
    broker = build_broker(loaded, loaded.config.sources[source].broker)
    if isinstance(broker, BacklogBroker):
        await broker.start_reading()
    else:
        await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()
