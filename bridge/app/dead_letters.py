"""Dead letters of the configured sources: places, selection, groups by cause. Reading affects no consumer."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any, cast

from bridge.app.composition import build_broker, require, subscribe_options
from bridge.brokers.base import Broker, ListingBroker, ReadableBroker, ReadOptions
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SUB_QUEUES
from bridge.config.source import Loaded
from bridge.core import dead_letter
from bridge.core.dead_letter import DeadLetter
from bridge.core.message import Message

_SHOWN = 20
"""Names of one kind that a group keeps."""


@dataclass(frozen=True, slots=True)
class Place:
    """Topic or sub-queue with dead letters. sources: sources whose dead letters go there."""

    broker: str
    topic: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions on dead letters; all must hold. An empty condition holds always.

    causes: reasons, or fingerprints of groups.
    since, until: seconds since the Unix epoch, of the time at which the dead letter was written.
    ids: positions (`orders.dlq/0@12`) or message ids.
    """

    sources: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    def holds(self, letter: DeadLetter, message: Message) -> bool:
        """True if all conditions hold for a dead letter."""
        if self.sources and letter.source is not None and letter.source not in self.sources:
            return False
        if self.routes and letter.route not in self.routes:
            return False
        if self.causes and letter.reason not in self.causes and letter.fingerprint not in self.causes:
            return False
        if self.keys and (message.key or b"").decode("utf-8", "replace") not in self.keys:
            return False
        if self.ids and not any(_names(letter, each) for each in self.ids):
            return False
        written = letter.failed_at
        if written is None:
            return self.since is None and self.until is None
        return (self.since is None or written >= self.since) and (self.until is None or written < self.until)


def _names(letter: DeadLetter, id_: str) -> bool:
    """True if a text names the dead letter. The message id of a CloudEvent is its source, a slash and its id."""
    message_id = letter.message_id or ""
    return id_ in (letter.id, message_id, str(letter.origin)) or message_id.endswith(f"/{id_}")


@dataclass(slots=True)
class Group:
    """Dead letters of one cause.

    detail: of the last one; empty for foreign formats.
    example: id of the last one.
    """

    fingerprint: str
    reason: str
    error: str
    format: str
    count: int = 0
    first: float | None = None
    last: float | None = None
    detail: str = ""
    example: str = ""
    sources: dict[str, int] = field(default_factory=dict)
    routes: dict[str, int] = field(default_factory=dict)
    configs: dict[str, int] = field(default_factory=dict)

    def add(self, letter: DeadLetter) -> None:
        """Count a dead letter."""
        self.count += 1
        if letter.failed_at is not None:
            self.first = letter.failed_at if self.first is None else min(self.first, letter.failed_at)
        if letter.failed_at is None or self.last is None or letter.failed_at >= self.last:
            self.last = letter.failed_at if letter.failed_at is not None else self.last
            self.detail, self.example = letter.detail, letter.id
        for names, name in ((self.sources, letter.source), (self.routes, letter.route), (self.configs, letter.config)):
            if name and (name in names or len(names) < _SHOWN):
                names[name] = names.get(name, 0) + 1

    def to_dict(self) -> dict[str, Any]:
        """Group as JSON types."""
        return {
            "group": self.fingerprint,
            "reason": self.reason,
            "error": self.error,
            "format": self.format,
            "count": self.count,
            "first": self.first,
            "last": self.last,
            "detail": self.detail,
            "example": self.example,
            "sources": self.sources,
            "routes": self.routes,
            "configs": self.configs,
        }


class Groups:
    """Groups of dead letters by cause, most numerous first."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}
        self._known: dict[tuple[str, str | None, str, str], str] = {}

    def add(self, letter: DeadLetter) -> None:
        """Count a dead letter."""
        facts = (letter.reason, letter.route, letter.error, letter.detail)
        name = self._known.get(facts)
        if name is None:
            name = letter.fingerprint
            if len(self._known) < _REMEMBERED:
                self._known[facts] = name
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name, letter.reason, letter.error, letter.format)
        group.add(letter)

    def sorted(self) -> list[Group]:
        """All groups, most numerous first."""
        return sorted(self._groups.values(), key=lambda group: (-group.count, group.reason, group.fingerprint))


_REMEMBERED = 10_000
"""Details whose fingerprint is kept: most details of a group differ only in their values, or not at all."""


def places(loaded: Loaded, sources: Iterable[str] = ()) -> list[Place]:
    """Places with dead letters of these sources, or of all. Raises: LookupError for an unknown source.

    Topics of a source with a pattern are known by their broker only; see `found_places`.
    """
    chosen = list(sources)
    for name in chosen:
        require("source", name, loaded.config.sources)
    found: dict[tuple[str, str], list[str]] = {}
    for name, config in loaded.config.sources.items():
        if chosen and name not in chosen:
            continue
        template = subscribe_options(loaded, name).dead_letter
        for topic in config.origins:
            # A sub-queue has no dead letters of its own
            if template is not None:
                place = template.replace("{topic}", topic.partition("/")[0])
            elif config.sub_queue is None:
                place = topic + SUB_QUEUES["dead_letter"]
            else:
                continue
            found.setdefault((config.broker, place), []).append(name)
    return [Place(broker, topic, tuple(names)) for (broker, topic), names in found.items()]


async def visit(
    loaded: Loaded, selection: Selection, limit: int | None = None
) -> AsyncIterator[tuple[Place, DeadLetter, Message]]:
    """Selected dead letters, place by place, in order within a partition.

    A place that does not exist yet has none.
    Raises: LookupError, BrokerError, BrokerUnavailable.
    """
    count = 0
    async with AsyncExitStack() as opened:
        brokers: dict[str, Broker] = {}
        for place in await found_places(loaded, selection.sources, brokers, opened):
            broker = brokers[place.broker]
            assert isinstance(broker, ReadableBroker)
            async with aclosing(cast(Any, broker.read(ReadOptions(place.topic)))) as messages:
                async for position, message in messages:
                    letter = dead_letter.read(message, position)
                    if not selection.holds(letter, message):
                        continue
                    yield place, letter, message
                    count += 1
                    if count == limit:
                        return


async def found_places(
    loaded: Loaded, sources: Iterable[str], brokers: dict[str, Broker], opened: AsyncExitStack
) -> list[Place]:
    """Existing places with dead letters, also of sources with a pattern.

    brokers: receives the started brokers by name.
    opened: stops them.
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
        broker = build_broker(loaded, name)
        await broker.start()
        opened.push_async_callback(broker.stop)
        brokers[name] = broker
        existing[name] = await broker.topics() if isinstance(broker, ListingBroker) else None
    for name, pattern in patterns.items():
        config = loaded.config.sources[name]
        template = subscribe_options(loaded, name).dead_letter or DEAD_LETTER_TOPIC
        for topic in existing[config.broker] or ():
            place = template.replace("{topic}", topic)
            if re.match(pattern, topic) and not any(each.topic == place for each in known):
                known.append(Place(config.broker, place, (name,)))
    return [place for place in known if (topics := existing[place.broker]) is None or place.topic in topics]
