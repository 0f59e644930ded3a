"""Checks of topics on the live brokers: existence, and the sources that read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bridge.brokers.base import Broker, TopicBroker
from bridge.config.model.sources import DEAD_LETTER_TOPIC, SourceConfig
from bridge.config.source import Loaded
from bridge.core.errors import BrokerError, BrokerUnavailable, ConfigError, Problem
from bridge.core.problems.codes import coded


async def check_topics(loaded: Loaded, brokers: Mapping[str, Broker], *, intake: bool, worker: bool) -> None:
    """Check that all topics exist that are read or written, and that no two sources read one topic in one group.

    brokers: started brokers by name.
    intake: this process consumes.
    worker: this process runs activities that publish.
    Topics are created where `create_topics` allows it.
    Raises: ConfigError with all problems, BrokerUnavailable.
    """
    problems: list[Problem] = []
    known = {name: broker for name, broker in brokers.items() if isinstance(broker, TopicBroker)}
    for path, broker, topic in _needed(loaded, intake, worker):
        if broker in known:
            try:
                await known[broker].ensure((topic,))
            except BrokerUnavailable:
                raise
            except BrokerError as error:
                problems.append(loaded.locate(path, str(error)))
    if intake:
        problems += await shared_topics(loaded, known)
    if problems:
        raise ConfigError(problems)


def _needed(loaded: Loaded, intake: bool, worker: bool) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Configuration path, broker and topic of everything that is read or written."""
    if worker:
        for name, target in loaded.config.targets.items():
            yield ("targets", name, "topic"), target.broker, target.address
    if intake:
        for name, source in loaded.config.sources.items():
            for index, topic in enumerate(source.topics):
                yield ("sources", name, "topics", index), source.broker, topic
            path = ("sources", name, "dead_letter" if "dead_letter" in source.model_fields_set else "topics")
            dead_letters = source.dead_letter or DEAD_LETTER_TOPIC
            for topic in dict.fromkeys(dead_letters.replace("{topic}", each) for each in source.topics):
                yield path, source.broker, topic


async def shared_topics(loaded: Loaded, brokers: Mapping[str, TopicBroker]) -> list[Problem]:
    """Problems of sources that read one topic in one group: each would see a part of the messages.

    The configuration check finds them for one broker. Two brokers that are one cluster are only found here.
    """
    problems = []
    readers: dict[tuple[str, str, str], str] = {}
    for name, source in loaded.config.sources.items():
        broker = brokers.get(source.broker)
        if broker is None:
            continue
        for topic in await _read(source, broker):
            first = readers.setdefault((broker.cluster, source.group, topic), name)
            if first != name:
                what = (
                    f"`{topic}` is read by the source `{first}` in the same group `{source.group}` already, and the "
                    f"brokers `{loaded.config.sources[first].broker}` and `{source.broker}` are one cluster; give one "
                    "of them another group"
                )
                problems.append(coded("C011", loaded.locate(("sources", name, "topics"), what)))
                break
    return problems


async def _read(source: SourceConfig, broker: TopicBroker) -> list[str]:
    pattern = source.kafka.pattern if source.kafka is not None else None
    if pattern is None:
        return list(source.topics)
    return [topic for topic in await broker.topics() if re.match(pattern, topic)]
