"""Message at a position of a broker: read again while it is there, and routed by the configuration of its time."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, cast

from bridge.app import configurations
from bridge.app.codecs import build_registries
from bridge.app.composition import build_broker, build_decoder, build_router, subscribe_options
from bridge.app.dead_letters import reading as dead_letters
from bridge.app.messages.reading import id_of
from bridge.app.operations.lineage.trace import NOT_KEPT, NOT_PROCESSED, Behind, TraceAnswer
from bridge.brokers.base import ReadOptions, readable
from bridge.config.source import Loaded
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.errors import BridgeError, BrokerUnavailable, ConfigError, EngineError, MessageError
from bridge.core.message import Envelope, Message, Position
from bridge.core.states import Outcome
from bridge.routing import explain
from bridge.system.clock import stamp

_POSITION = re.compile(r"(.*)/([0-9]{1,9})@([0-9]{1,18})", re.DOTALL)
_SECONDS = 10.0
"""Deadline of a read, in seconds."""


@dataclass(frozen=True, slots=True)
class NamedPosition:
    """Position as a person writes it, and the source that reads there."""

    broker: str
    topic: str
    partition: int
    offset: int
    source: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}"


def places(loaded: Loaded, text: str) -> list[NamedPosition]:
    """Places that `TOPIC/PARTITION@OFFSET` may mean. A source may stand for its topic, and a cluster before it."""
    found = _POSITION.fullmatch(text)
    if found is None:
        return []
    name, partition, offset = found[1], int(found[2]), int(found[3])
    read: dict[tuple[str, str], str] = {}
    for source, config in loaded.config.sources.items():
        for topic in subscribe_options(loaded, source).topics:
            read.setdefault((config.broker, topic), source)
    names = {name, name.partition("/")[2]}
    return [
        NamedPosition(broker, topic, partition, offset, source)
        for (broker, topic), source in read.items()
        if topic in names or source == name
    ]


async def message_behind(loaded: Loaded, text: str) -> Behind | None:
    """Message behind a position in a topic of dead letters or of a target; None for any other text."""
    found = _POSITION.fullmatch(text)
    if found is None or places(loaded, text):
        return None
    entries = {(each.broker, each.topic) for each in dead_letters.places(loaded)}
    topics = entries | {(target.broker, target.address) for target in loaded.config.targets.values()}
    for broker, topic in sorted(topics):
        if topic not in (found[1], found[1].partition("/")[2]):
            continue
        try:
            read = await message_at(loaded, NamedPosition(broker, topic, int(found[2]), int(found[3]), ""))
        except BridgeError:
            continue
        if read is None:
            continue
        position, message = read
        if (broker, topic) not in entries:
            id_ = id_of(message)
            return None if id_ is None else Behind("publication", id_)
        entry = dead_letter.read(message, position)
        origin = entry.message_id if entry.origin.offset is None else str(entry.origin)
        return None if origin is None else Behind("dead letter", origin, *await _state(loaded, broker, topic, entry))
    return None


async def _state(loaded: Loaded, broker: str, topic: str, entry: DeadLetter) -> tuple[str | None, str | None]:
    """State of a dead letter, and the job that has set it; None if unknown."""
    place = next(each for each in dead_letters.places(loaded) if (each.broker, each.topic) == (broker, topic))
    async with AsyncExitStack() as opened:
        states = dead_letters.PlaceStates(loaded, opened)
        try:
            await states.load(place)
        except EngineError:
            return None, None
        mark = states.mark(place, entry)
        return str(states.state(place, entry)), None if mark is None else mark.job or None


@dataclass(frozen=True, slots=True)
class RereadMessage:
    """Message that was read again. identity: None when it cannot be decoded; `answer` says why."""

    position: Position
    identity: str | None
    answer: TraceAnswer


async def read(loaded: Loaded, place: NamedPosition) -> RereadMessage | TraceAnswer:
    """Read a message again and route it. Returns the answer alone when it cannot be read."""
    try:
        found = await message_at(loaded, place)
    except BridgeError as error:
        return TraceAnswer(NOT_KEPT, position=str(place), source=place.source, detail=str(error))
    if found is None:
        detail = "the broker does not have it: it was deleted, or is not written yet"
        return TraceAnswer(NOT_KEPT, position=str(place), source=place.source, detail=detail)
    position, message = found
    known = of_its_time(loaded, place.source, message)
    if known is None:
        return await _routed(loaded, f"the present configuration {loaded.version}", place.source, position, message)
    return await _routed(known, f"configuration {known.version}", place.source, position, message)


def of_its_time(loaded: Loaded, source: str, message: Message) -> Loaded | None:
    """Configuration that decided about a message of a source; None when it was not kept."""
    known = None if message.timestamp is None else configurations.at(loaded, message.timestamp)
    return None if known is None or source not in known[0].config.sources else known[0]


async def message_at(loaded: Loaded, place: NamedPosition) -> tuple[Position, Message] | None:
    """Message at a place; None if the broker does not have it. Raises: BrokerError, BrokerUnavailable."""
    try:
        async with asyncio.timeout(_SECONDS):
            return await _message(loaded, place)
    except TimeoutError:
        raise BrokerUnavailable(f"the broker did not answer within {_SECONDS:g} s") from None


async def _message(loaded: Loaded, place: NamedPosition) -> tuple[Position, Message] | None:
    broker = build_broker(loaded, place.broker)
    await broker.start()
    try:
        options = ReadOptions(place.topic, place.offset, place.partition)
        async with aclosing(cast(Any, readable(broker).read(options))) as messages:
            async for position, message in messages:
                return (position, message) if position.offset == place.offset else None
    finally:
        await broker.stop()
    return None


async def _routed(loaded: Loaded, by: str, source: str, position: Position, message: Message) -> RereadMessage:
    at = None if message.timestamp is None else stamp(datetime.fromtimestamp(message.timestamp, UTC))
    answer = TraceAnswer(NOT_KEPT, position=str(position), at=at, source=source, config=loaded.version)
    envelope: Envelope | None = None
    try:
        envelope = await decoded(loaded, source, position, message)
        explanation = explain(build_router(loaded, source), envelope)
    except MessageError as error:
        failed = Outcome.DEAD_LETTERED
        return RereadMessage(position, None, _with(answer, outcome=failed, reason=error.reason, detail=str(error)))
    except BridgeError as error:
        what = "; ".join(problem.what for problem in error.problems) if isinstance(error, ConfigError) else str(error)
        return RereadMessage(position, None, _with(answer, detail=f"{by} cannot be used: {what}"))
    answer = _with(answer, message_id=envelope.message_id)
    decision = explanation.decision
    if decision is None:
        why = {"reason": explanation.reason, "detail": explanation.error}
        return RereadMessage(position, envelope.message_id, _with(answer, outcome=Outcome.DEAD_LETTERED, **why))
    routes = ", ".join(decision.routes) or None
    if not decision.steps:
        why_not = (
            "no route matches" if routes is None else "; ".join(_why_ignored(loaded, each) for each in decision.routes)
        )
        ignored = _with(answer, outcome=Outcome.IGNORED, route=routes, detail=f"{why_not}, by {by}")
        return RereadMessage(position, envelope.message_id, ignored)
    ids = (getattr(step.command, "instance_id", None) for step in decision.steps)
    detail = f"route {routes} matches by {by}, but no engine and no daemon knows of it"
    todo = {"route": routes, "instance_id": next(filter(None, ids), None), "detail": detail}
    return RereadMessage(position, envelope.message_id, _with(answer, outcome=NOT_PROCESSED, **todo))


def _why_ignored(loaded: Loaded, route: str) -> str:
    """Cause for which a matching route made no command."""
    ignore = next((each.ignore for each in loaded.config.routes if each.name == route), None)
    if ignore is None:
        return f"the list in `for_each` of route {route} is empty"
    return f"route {route} has the command `ignore`{f' ({ignore.reason})' if ignore.reason else ''}"


async def decoded(loaded: Loaded, source: str, position: Position, message: Message) -> Envelope:
    """Decode a message as its source does. Raises: MessageError, ConfigError, RegistryUnavailable."""
    registries = build_registries(loaded)
    decoder = build_decoder(loaded, source, registries)
    try:
        if decoder.prepare is not None and message.unreadable is None:
            await decoder.prepare([message])
        return decoder.decode(message, position)
    finally:
        for registry in registries.values():
            await registry.close()


def _with(answer: TraceAnswer, **changes: Any) -> TraceAnswer:
    return replace(answer, **changes)
