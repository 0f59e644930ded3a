"""Sample messages for `bridge check`: files of messages, and the rules that they reach."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.app.messages.reading import MessageOptions, sample_line
from bridge.codecs.decoder import SourceDecoder
from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.sources import SourceConfig
from bridge.core.errors import DecodeError, Locate, MessageError, Problem
from bridge.core.message import Message, Position
from bridge.core.problems.codes import coded
from bridge.routing import Router

SUFFIXES = (".jsonl", ".ndjson", ".json")
"""Suffixes of the files that are read in a directory. A `.json` file holds one message."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A message, and the topic or source that it is for; None: any source.

    place: partition and offset, if the line has them.
    """

    message: Message
    topic: str | None = None
    source: str | None = None
    place: tuple[int, int] | None = None


@dataclass
class ReachedRules:
    """Rules that sample messages reach.

    by_source: number of samples of each source.
    """

    routes: set[str] = field(default_factory=set)
    by_source: Counter[str] = field(default_factory=Counter)
    dead_lettered: int = 0

    def tried(self, outcomes: Sequence[bool]) -> None:
        """Note a sample. outcomes: of each source that was tried, False if the source would dead-letter it."""
        self.dead_lettered += bool(outcomes) and not any(outcomes)


def read_samples(paths: Sequence[Path], sources: Mapping[str, SourceConfig]) -> Iterator[Sample]:
    """Read the messages in files and directories.

    A line without a topic is for the source or topic that its file is named after, else for any source.
    Raises: DecodeError with file and line; OSError.
    """
    for path in paths:
        for file in _files(path):
            source = file.stem if file.stem in sources else None
            topic = file.stem if source is None and readers(sources, file.stem) else None
            if file.suffix == ".json":
                yield _single(file, topic, source)
                continue
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
                        yield _line(line, f"{file}:{number}", topic, source)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise DecodeError(f"{path}: the directory has no file {' or '.join(f'*{suffix}' for suffix in SUFFIXES)}")
    return found


def _single(file: Path, topic: str | None, source: str | None) -> Sample:
    """Message in a file of its own: a line of JSON Lines, or else a body."""
    body = file.read_bytes()
    try:
        return _line(body, str(file), topic, source)
    except DecodeError:
        return Sample(MessageOptions().message(body), topic, source)


def _line(line: bytes, label: str, topic: str | None, source: str | None) -> Sample:
    try:
        own, place, message = sample_line(line)
    except DecodeError as error:
        raise DecodeError(f"{label}: {error}") from None
    return Sample(message, topic, source, place) if own is None else Sample(message, own, None, place)


def readers(sources: Mapping[str, SourceConfig], topic: str) -> list[str]:
    """Sources that read a topic."""
    return [name for name, source in sources.items() if _reads(source, topic)]


def _reads(source: SourceConfig, topic: str) -> bool:
    pattern = source.kafka.pattern if source.kafka is not None else None
    return topic in source.origins or (pattern is not None and re.match(pattern, topic) is not None)


def reach(
    config: BridgeConfig,
    samples: Iterator[Sample],
    decoders: Mapping[str, SourceDecoder],
    routers: Mapping[str, Router],
) -> ReachedRules:
    """Route the samples, and note the rules that match. Only sources with a decoder and a router are tried."""
    found = ReachedRules()
    for sample in samples:
        if sample.source is not None:
            names = [sample.source]
        elif sample.topic is not None:
            names = readers(config.sources, sample.topic)
        else:
            names = list(config.sources)
        found.tried(
            [_try(config, name, sample, decoders[name], routers[name], found) for name in names if name in routers]
        )
    return found


def _try(
    config: BridgeConfig, name: str, sample: Sample, decoder: SourceDecoder, router: Router, found: ReachedRules
) -> bool:
    """Route a sample as a message of a source. Returns False if it would be dead-lettered."""
    found.by_source[name] += 1
    source = config.sources[name]
    topic = sample.topic if sample.topic is not None else next(iter(source.origins), name)
    try:
        envelope = decoder.decode(sample.message, Position(source.broker, topic, 0, 0))
        found.routes.update(router.route(envelope).routes)
    except MessageError as error:
        if error.route is not None and not error.expression.endswith(", when"):
            found.routes.add(error.route)  # its command failed, but the rule matched
        return False
    return True


def unreached(config: BridgeConfig, found: ReachedRules, locate: Locate) -> list[Problem]:
    """Warnings for rules that no sample reaches."""
    problems = []
    for position, route in enumerate(config.routes):
        if route.name in found.routes:
            continue
        count = sum(found.by_source[name] for name in route.from_)
        whose = " and ".join(route.from_)
        what = (
            f"none of the {count} samples of {whose} reaches this rule; add one, or correct `match` and `when`"
            if count
            else f"there is no sample of {whose}; add one"
        )
        problems.append(coded("R024", locate(("routes", position), what)))
    return problems
