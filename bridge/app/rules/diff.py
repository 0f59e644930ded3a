"""Comparison of two configurations with messages of files or of a topic."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge.app.check.samples import Sample, read_samples, readers
from bridge.app.composition import require
from bridge.app.messages.reading import sample_line
from bridge.app.messages.topic import messages, resolve
from bridge.app.rules.comparison import ConfigurationRules, RulesComparison
from bridge.brokers.base import ReadOptions
from bridge.config.source import Loaded
from bridge.core.errors import DecodeError
from bridge.core.message import Message, Position


@dataclass(frozen=True, slots=True)
class ReceivedMessage:
    """Message with the sources that receive it in one of the configurations."""

    message: Message
    position: Position | None
    sources: tuple[str, ...]


@dataclass
class Diff:
    """Result of a comparison.

    unread: messages of topics that no source reads. limited: the limit was reached; there may be more messages.
    """

    comparison: RulesComparison
    unread: int = 0
    limited: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Result as JSON types."""
        return {**self.comparison.to_dict(), "unread": self.unread, "limited": self.limited}


class Receivers:
    """Sources that receive messages, in either of two configurations."""

    def __init__(self, old: Loaded, new: Loaded, chosen: str | None) -> None:
        """Prepare. chosen: source of all messages; None: the sources that read their topic. Raises: LookupError."""
        self._sides = (old.config.sources, new.config.sources)
        self._names = tuple(dict.fromkeys((*old.config.sources, *new.config.sources)))
        if chosen is not None:
            require("source", chosen, self._names)
        self._chosen = chosen
        self._by_topic: dict[str, tuple[str, ...]] = {}

    def of_topic(self, topic: str) -> tuple[str, ...]:
        """Sources that read a topic."""
        if self._chosen is not None:
            return (self._chosen,)
        found = self._by_topic.get(topic)
        if found is None:
            found = tuple(dict.fromkeys(name for side in self._sides for name in readers(side, topic)))
            self._by_topic[topic] = found
        return found

    def of(self, sample: Sample) -> tuple[str, ...]:
        """Sources that receive a message of a file. Raises: DecodeError if the message does not tell."""
        if self._chosen is not None:
            return (self._chosen,)
        if sample.source is not None:
            return (sample.source,)
        if sample.topic is not None:
            return self.of_topic(sample.topic)
        if len(self._names) > 1:
            raise DecodeError("a message names no topic; name its source with --source")
        return self._names

    def broker(self, source: str) -> str:
        """Broker of a source."""
        return next(side[source].broker for side in self._sides if source in side)


def of_files(paths: Sequence[Path], old: Loaded, new: Loaded, receivers: Receivers) -> AsyncGenerator[ReceivedMessage]:
    """Messages of files and directories, as `bridge check --samples` reads them. Raises: DecodeError, OSError."""
    return _samples(read_samples(paths, {**new.config.sources, **old.config.sources}), receivers)


def of_lines(lines: Any, label: str, receivers: Receivers) -> AsyncGenerator[ReceivedMessage]:
    """Messages of lines of `bridge topic read --json`. Raises: DecodeError with label and line."""

    def samples() -> Any:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    topic, place, message = sample_line(line)
                except DecodeError as error:
                    raise DecodeError(f"{label}:{number}: {error}") from None
                yield Sample(message, topic, None, place)

    return _samples(samples(), receivers)


async def _samples(samples: Any, receivers: Receivers) -> AsyncGenerator[ReceivedMessage]:
    for sample in samples:
        sources = receivers.of(sample)
        position = None
        if sample.topic is not None and sources:
            position = Position(receivers.broker(sources[0]), sample.topic, *(sample.place or (0, 0)))
        yield ReceivedMessage(sample.message, position, sources)


async def of_topic(
    old: Loaded, new: Loaded, text: str, receivers: Receivers, newest: int
) -> AsyncGenerator[ReceivedMessage]:
    """Newest messages of a topic.

    text: `SOURCE` or `BROKER/TOPIC` of the old configuration, or of the new one if the old one does not have it.
    Raises: LookupError, BrokerError, BrokerUnavailable.
    """
    try:
        loaded, (broker, topic) = old, resolve(old, text)
    except LookupError:
        loaded, (broker, topic) = new, resolve(new, text)
    sources = receivers.of_topic(topic)
    async with aclosing(messages(loaded, broker, ReadOptions(topic), newest)) as found:
        async for position, message in found:
            yield ReceivedMessage(message, position, sources)


async def compare(
    old: Loaded, new: Loaded, received: AsyncGenerator[ReceivedMessage], limit: int, progress: Callable[[int], None]
) -> Diff:
    """Compare the decisions of two configurations about at most `limit` messages.

    Raises: ConfigError; MessageError for a schema that a registry does not have; as `received`.
    """
    sides = ConfigurationRules(old), ConfigurationRules(new)
    found = Diff(RulesComparison(*sides))
    count = 0
    try:
        for side in sides:
            side.compile()
        async with aclosing(received) as all_received:
            async for each in all_received:
                count += 1
                found.unread += not each.sources
                for source in each.sources:
                    await found.comparison.add(source, each.message, each.position)
                progress(count)
                if count == limit:
                    found.limited = True
                    break
    finally:
        for side in sides:
            await side.close()
    return found
