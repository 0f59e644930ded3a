"""Dead letters of the configured sources: places, selection, groups by cause. Reading affects no consumer."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from bridge.app.composition import build_broker, build_engine, require, stored_entities, subscribe_options
from bridge.brokers.base import Broker, ListingBroker, LogBroker, ReadableBroker, ReadOptions, readable
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SUB_QUEUES
from bridge.config.source import Loaded, state_engine
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.errors import EngineOutage
from bridge.core.message import Message, Position
from bridge.dead_letters.rows import Facts
from bridge.dead_letters.state_machine import BlockStates, DeadLetterMark, DeadLetterState
from bridge.dead_letters.topic_states import DeadLetterRef, TopicStates, stored_topic_states
from bridge.engines.base import Engine, StoredEntities

_POSITION = re.compile(r"(.+)/([0-9]{1,10})@([0-9]{1,19})", re.DOTALL)
"""Position of a dead letter: topic, partition, offset."""
ReadPlace = tuple[str, str, int, int]
"""Place of a dead letter in the order of broker, topic, partition and offset."""
_MOST_NAMED = 20
"""Most positions that are read one by one. For more, the whole topic is read."""


@dataclass(frozen=True, slots=True)
class DeadLetterPlace:
    """Topic or sub-queue with dead letters.

    sources: chosen sources whose dead letters go there.
    owners: all such sources.
    """

    broker: str
    topic: str
    sources: tuple[str, ...]
    owners: tuple[str, ...]

    def owner(self, source: str | None) -> str:
        """Source on whose engine the state of a dead letter is. source: as the dead letter states it."""
        return source if source is not None and source in self.owners else self.owners[0]


@dataclass(frozen=True, slots=True)
class DeadLetterSelection:
    """Conditions on dead letters; all must hold. An empty condition holds always.

    causes: reasons, or fingerprints of groups.
    since, until: seconds since the Unix epoch, of the time at which the dead letter was written.
    ids: positions (`orders.dlq/0@12`) or message ids.
    states: empty means any state.
    """

    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    states: frozenset[DeadLetterState] = frozenset()
    _named: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Thousands of ids are looked up for each dead letter
        object.__setattr__(self, "_named", frozenset(self.ids) - {""})

    @property
    def in_columns(self) -> bool:
        """True if the rows of dead letters decide about the conditions."""
        return not self.ids and not self.keys

    def facts(self, facts: Facts) -> bool:
        """True if the conditions on the common facts hold."""
        return (
            (not self.sources or facts.source is None or facts.source in self.sources)
            and (not self.routes or facts.route in self.routes)
            and (not self.causes or facts.reason in self.causes or facts.fingerprint in self.causes)
        )

    def holds(self, entry: DeadLetter, message: Message) -> bool:
        """True if all conditions hold for a dead letter."""
        if self.sources and entry.source is not None and entry.source not in self.sources:
            return False
        if self.routes and entry.route not in self.routes:
            return False
        if self.causes and entry.reason not in self.causes and entry.fingerprint not in self.causes:
            return False
        if self.keys and (message.key or b"").decode("utf-8", "replace") not in self.keys:
            return False
        if self.ids and self._named.isdisjoint(_names(entry)):
            return False
        written = entry.failed_at
        if written is None:
            return self.since is None and self.until is None
        return (self.since is None or written >= self.since) and (self.until is None or written < self.until)


def _names(entry: DeadLetter) -> tuple[str, ...]:
    """Texts that name the dead letter. The identity of a CloudEvent is its source, a blank and its id."""
    message_id = entry.message_id or ""
    return entry.id, message_id, str(entry.origin), message_id.partition(" ")[2]


def places(loaded: Loaded, sources: Iterable[str] = ()) -> list[DeadLetterPlace]:
    """Places with dead letters of these sources, or of all. Raises: LookupError for an unknown source.

    A source of Service Bus that names a queue has two places: the service and other consumers use the sub-queue of the
    entity.
    Topics of a source with a pattern are known by their broker only; see `found_places`.
    """
    chosen = list(sources)
    for name in chosen:
        require("source", name, loaded.config.sources)
    found: dict[tuple[str, str], list[str]] = {}
    for name, config in loaded.config.sources.items():
        template = subscribe_options(loaded, name).dead_letter
        for topic in config.origins:
            if template is not None:
                found.setdefault((config.broker, template.replace("{topic}", topic.partition("/")[0])), []).append(name)
            # A sub-queue has no dead letters of its own
            if config.is_queue and config.sub_queue is None:
                found.setdefault((config.broker, topic + SUB_QUEUES["dead_letter"]), []).append(name)
    return [
        DeadLetterPlace(broker, topic, of, tuple(names))
        for (broker, topic), names in found.items()
        if (of := tuple(name for name in names if not chosen or name in chosen))
    ]


class PlaceStates:
    """States of the dead letters of places, each on the engine of its source.

    engines: engines by name, which replace those of the configuration, for a process that has them open.
    """

    def __init__(self, loaded: Loaded, opened: AsyncExitStack, engines: Mapping[str, Engine] | None = None) -> None:
        """Create the view; open nothing. opened: stops the engines."""
        self._loaded = loaded
        self._opened = opened
        self._engines: dict[str, Engine] = dict(engines or {})
        self._stored: dict[str, StoredEntities | None] = {}
        """Files of engines by name, for those that are not in `engines`; None for a remote engine."""
        self._topics: dict[tuple[str, str, str], TopicStates] = {}
        """States by engine, broker and topic."""

    async def load(self, place: DeadLetterPlace) -> None:
        """Read the states of a place again. Raises: EngineError."""
        for name in dict.fromkeys(state_engine(self._loaded, each) for each in place.owners):
            self._topics[name, place.broker, place.topic] = await self._read(name, place)

    async def _read(self, name: str, place: DeadLetterPlace) -> TopicStates:
        engine = self._engines.get(name)
        if engine is None and name not in self._stored:
            self._stored[name] = stored_entities(self._loaded, name)
        if (stored := self._stored.get(name)) is not None:
            return await stored_topic_states(stored, place.broker, place.topic)
        # Imported on demand: the SDK takes a tenth of a second, which reading a file does not need
        from bridge.dead_letters.store import DeadLetterStates

        if engine is None:
            engine = self._engines[name] = build_engine(self._loaded, name, host=False)
            await engine.start()
            self._opened.push_async_callback(engine.stop)
            await engine.probe()
        return await DeadLetterStates(engine).topic(place.broker, place.topic)

    def topics(self, place: DeadLetterPlace) -> Mapping[str, TopicStates]:
        """States of a place by engine."""
        names = dict.fromkeys(state_engine(self._loaded, each) for each in place.owners)
        return {name: self._topics[name, place.broker, place.topic] for name in names}

    def block(self, place: DeadLetterPlace, source: str | None, partition: int, first: int) -> BlockStates | None:
        """States of a block on the engine of a source; None if all are open there."""
        name = state_engine(self._loaded, place.owner(source))
        return self._topics[name, place.broker, place.topic].blocks.get((partition, first))

    def mark(self, place: DeadLetterPlace, entry: DeadLetter) -> DeadLetterMark | None:
        """Mark of a dead letter; None if it is open."""
        at = entry.position
        topic = self._topics[state_engine(self._loaded, place.owner(entry.source)), place.broker, place.topic]
        return topic.mark(at.partition, at.offset, entry.failed_at)

    def state(self, place: DeadLetterPlace, entry: DeadLetter) -> DeadLetterState:
        """State of a dead letter."""
        mark = self.mark(place, entry)
        return DeadLetterState.OPEN if mark is None else mark.state

    @staticmethod
    def ref(place: DeadLetterPlace, entry: DeadLetter) -> DeadLetterRef:
        """Position of a dead letter for the states of its engine."""
        at = entry.position
        return DeadLetterRef(place.broker, place.topic, at.partition, at.offset, entry.failed_at)


async def visit(
    loaded: Loaded,
    selection: DeadLetterSelection,
    limit: int | None = None,
    states: PlaceStates | None = None,
    after: ReadPlace | None = None,
) -> AsyncIterator[tuple[DeadLetterPlace, DeadLetter, Message]]:
    """Selected dead letters, place by place, in order within a partition.

    A place that does not exist yet has none. If a few positions are named, only they are read of a log.
    states: states on the engines; None: all dead letters are selected, whatever `selection.states`.
    after: only dead letters after this place, in the order of places; the broker reads no others.
    Raises: LookupError, BrokerError, BrokerUnavailable, EngineError.
    """
    count = 0
    async with AsyncExitStack() as opened:
        brokers: dict[str, Broker] = {}
        found = await found_places(loaded, selection.sources, brokers, opened)
        if after is not None:
            found = sorted(found, key=lambda place: (place.broker, place.topic))
            found = [place for place in found if (place.broker, place.topic) >= after[:2]]
        named = _named(selection.ids, {place.topic for place in found})
        for place in found:
            broker = readable(brokers[place.broker])
            if named is not None and place.topic not in named:
                continue
            if states is not None:
                await states.load(place)
            wanted = None if named is None else named[place.topic]
            read = _read(broker, place.topic, wanted)
            if after is not None:
                here = (place.broker, place.topic) == after[:2]
                read = _read_after(broker, place.topic, *(after[2:] if here else (0, -1)))
            async with aclosing(cast(Any, read)) as messages:
                async for position, message in messages:
                    entry = dead_letter.read(message, position)
                    if not selection.holds(entry, message):
                        continue
                    if states is not None and selection.states and states.state(place, entry) not in selection.states:
                        continue
                    yield place, entry, message
                    count += 1
                    if count == limit:
                        return


def _named(ids: Iterable[str], topics: Collection[str]) -> dict[str, set[tuple[int, int]]] | None:
    """Partitions and offsets by topic that few ids name; None if an id is no position in a topic, or for other ids."""
    if len(named := list(ids)) > _MOST_NAMED:
        return None
    found: dict[str, set[tuple[int, int]]] = {}
    for id_ in named:
        at = _POSITION.fullmatch(id_)
        if at is None or at[1] not in topics:
            return None
        found.setdefault(at[1], set()).add((int(at[2]), int(at[3])))
    return found or None


async def _read(
    broker: ReadableBroker, topic: str, wanted: Collection[tuple[int, int]] | None
) -> AsyncIterator[tuple[Position, Message]]:
    """Messages of a topic in their order; only those at these partitions and offsets. None: all.

    A queue is read as a whole: its positions are no places where a read can begin.
    """
    if wanted is None or not isinstance(broker, LogBroker):
        async with aclosing(cast(Any, broker.read(ReadOptions(topic)))) as messages:
            async for each in messages:
                yield each
        return
    known = (await broker.ranges(topic)).offsets
    for partition, offset in sorted(wanted):
        begin, end = known.get(partition, (0, 0))
        if not begin <= offset < end:
            continue
        options = ReadOptions(topic, ranges={partition: (offset, offset + 1)})
        async with aclosing(cast(Any, broker.read(options))) as messages:
            async for position, message in messages:
                if position.offset == offset:
                    yield position, message


async def _read_after(
    broker: ReadableBroker, topic: str, partition: int, offset: int
) -> AsyncIterator[tuple[Position, Message]]:
    """Messages of a topic after an offset of a partition, partition by partition."""
    if isinstance(broker, LogBroker):
        known = sorted((await broker.ranges(topic)).offsets.items())
        firsts = [(each, max(begin, offset + 1) if each == partition else begin, end) for each, (begin, end) in known]
        options = [
            ReadOptions(topic, ranges={each: (first, end)})
            for each, first, end in firsts
            if each >= partition and first < end
        ]
    else:
        options = [ReadOptions(topic, start=offset + 1)]
    for each in options:
        async with aclosing(cast(Any, broker.read(each))) as messages:
            async for found in messages:
                yield found


@contextmanager
def offline_hint() -> Iterator[None]:
    """Add the next step to the error of an engine that cannot be asked for states."""
    try:
        yield
    except EngineOutage as error:
        raise type(error)(f"{error}; `--offline` shows dead letters without their states") from error


class FoundDeadLetter(NamedTuple):
    """Dead letter with its state. mark: None if it is open, or if its state was not asked for."""

    place: DeadLetterPlace
    dead_letter: DeadLetter
    message: Message
    state: DeadLetterState | None
    mark: DeadLetterMark | None


async def visited(
    loaded: Loaded,
    selection: DeadLetterSelection,
    limit: int | None = None,
    *,
    offline: bool = False,
    engines: Mapping[str, Engine] | None = None,
    after: ReadPlace | None = None,
) -> AsyncIterator[FoundDeadLetter]:
    """Selected dead letters with their states, as `visit`.

    offline: do not ask the engines; dead letters of all states are selected, and their state is None.
    engines: see `PlaceStates`.
    Raises: LookupError, BrokerError, BrokerUnavailable, EngineError.
    """
    async with AsyncExitStack() as opened:
        opened.enter_context(offline_hint())
        states = None if offline else PlaceStates(loaded, opened, engines)
        async with aclosing(cast(Any, visit(loaded, selection, limit, states, after))) as entries:
            async for place, entry, message in entries:
                mark = None if states is None else states.mark(place, entry)
                state = None if states is None else states.state(place, entry)
                yield FoundDeadLetter(place, entry, message, state, mark)


async def why_gone(loaded: Loaded, id_: str, *, offline: bool = False) -> str | None:
    """Sentence about a dead letter that its topic does not have any more; None if the id names none.

    id_: like `orders.dlq/0@12`.
    Raises: LookupError, BrokerError, BrokerUnavailable, EngineError.
    """
    named = _POSITION.fullmatch(id_)
    if named is None:
        return None
    topic, partition, offset = named[1], int(named[2]), int(named[3])
    async with AsyncExitStack() as opened:
        brokers: dict[str, Broker] = {}
        for place in await found_places(loaded, (), brokers, opened):
            broker = brokers[place.broker]
            if place.topic != topic:
                continue
            why = "somebody has completed or received it"
            if isinstance(broker, LogBroker):
                ranges = await broker.ranges(topic)
                begin, end = ranges.offsets.get(partition, (0, 0))
                if offset >= end:
                    return None
                why = "its retention has ended" if offset < begin else "compaction has removed it"
            if offline:
                return f"{id_} is gone: {why}"
            states = PlaceStates(loaded, opened)
            await states.load(place)
            marks = [mark for each in states.topics(place).values() if (mark := each.mark(partition, offset))]
            if not marks:
                return f"{id_} is gone: {why}" if isinstance(broker, LogBroker) else None
            restored_since = time.time() - loaded.config.ops.dead_letters.restore
            if not isinstance(broker, LogBroker) and marks[0].is_over(restored_since):
                why = "the daemon has completed it"
            return f"{id_} is gone: {why}; it was {marks[0].state}"
    return None


async def found_places(
    loaded: Loaded, sources: Iterable[str], brokers: dict[str, Broker], opened: AsyncExitStack
) -> list[DeadLetterPlace]:
    """Existing places with dead letters, also of sources with a pattern.

    brokers: started brokers by name; receives the others that are needed.
    opened: stops those.
    """
    chosen = tuple(sources)
    known = places(loaded, chosen)
    patterns = {
        name: config.kafka.pattern
        for name, config in loaded.config.sources.items()
        if config.kafka is not None and config.kafka.pattern is not None and (not chosen or name in chosen)
    }
    wanted = {place.broker for place in known} | {loaded.config.sources[name].broker for name in patterns}
    existing: dict[str, Mapping[str, int] | None] = {}
    for name in sorted(wanted):
        broker = brokers.get(name)
        if broker is None:
            broker = brokers[name] = build_broker(loaded, name)
            await broker.start()
            opened.push_async_callback(broker.stop)
        existing[name] = await broker.topics() if isinstance(broker, ListingBroker) else None
    for name, pattern in patterns.items():
        config = loaded.config.sources[name]
        template = subscribe_options(loaded, name).dead_letter or DEAD_LETTER_TOPIC
        for topic in existing[config.broker] or ():
            place = template.replace("{topic}", topic)
            if re.match(pattern, topic) and not any(each.topic == place for each in known):
                known.append(DeadLetterPlace(config.broker, place, (name,), (name,)))
    return [place for place in known if (topics := existing[place.broker]) is None or place.topic in topics]
