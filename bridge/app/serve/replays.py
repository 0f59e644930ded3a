"""Replay of dead letters in the daemon: sources as jobs see them, and the watch over the replay queues."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime

import structlog

from bridge.app.composition import subscribe_options
from bridge.app.serve.decisions.pauses import READ_SECONDS
from bridge.brokers.base import Broker
from bridge.config.model.sources import SourceConfig
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.core.system_names import source_of_key
from bridge.dead_letters.store import DeadLetterStates
from bridge.engines.base import Engine
from bridge.pipeline.source import SourcePipeline
from bridge.replay.edits import ReplayEdits
from bridge.replay.feed import ReplayFeed
from bridge.replay.kind import ReplayKind, ReplaySource
from bridge.replay.reading import DeadLetterReader
from bridge.replay.state_machine import ReplayLimits
from bridge.replay.store import ReplayStore
from bridge.waiting.replays import ReplayReports

log = structlog.get_logger("bridge.replay")


def replay_sources(loaded: Loaded, brokers: Mapping[str, Broker]) -> dict[str, ReplaySource]:
    """Sources of a configuration, as jobs that replay dead letters see them."""
    found = {}
    for name, config in loaded.config.sources.items():
        template = subscribe_options(loaded, name).dead_letter
        limits = config.limits
        found[name] = ReplaySource(
            name,
            config.broker,
            template or "",
            limits.max_replays,
            ReplayLimits(limits.max_queued_replays, limits.max_queued_replay_bytes),
            _has(config) if brokers[config.broker].features.groups else _has_none,
        )
    return found


def _has(config: SourceConfig) -> Callable[[str, int], bool]:
    pattern = None if config.kafka is None or config.kafka.pattern is None else re.compile(config.kafka.pattern)

    def has(topic: str, partition: int) -> bool:
        return topic in config.topics or (pattern is not None and pattern.match(topic) is not None)

    return has


def _has_none(topic: str, partition: int) -> bool:
    return False


class Replays:
    """Parts of a daemon or worker that replay dead letters.

    stores: replay queues by engine.
    kinds: job kind `replay` by engine.
    """

    def __init__(self, loaded: Loaded, engines: Mapping[str, Engine], brokers: Mapping[str, Broker]) -> None:
        self.stores = {name: ReplayStore(engine) for name, engine in engines.items()}
        self.reports = ReplayReports(engines)
        self.watch = ReplayWatch(self.stores)
        self._brokers = brokers
        self._reader = DeadLetterReader(brokers)
        sources = replay_sources(loaded, brokers)
        self.kinds = {
            name: ReplayKind(
                self.stores[name],
                DeadLetterStates(engine),
                self._reader,
                sources,
                ReplayEdits(engine),
                self.watch.filled,
            )
            for name, engine in engines.items()
        }

    def add(self, source: SourcePipeline) -> None:
        """Notify a source of this daemon of its replay queues."""
        for part in source.parts:
            if isinstance(part, ReplayFeed):
                self.watch.add(source.settings.name, part)

    def remove(self, name: str) -> None:
        """Notify a source no longer."""
        self.watch.remove(name)

    def use(self, loaded: Loaded) -> None:
        """Replay dead letters of the sources of another configuration from now on."""
        sources = replay_sources(loaded, self._brokers)
        for kind in self.kinds.values():
            kind.use(sources)

    async def stop(self) -> None:
        """Close the readings of dead letters."""
        await self._reader.close()


class ReplayWatch:
    """Watch that lists the replay queues of the engines, and notifies the feeds of this daemon's sources."""

    def __init__(self, stores: Mapping[str, ReplayStore]) -> None:
        """Create a watch. stores: by engine."""
        self._stores = stores
        self._feeds: dict[str, ReplayFeed] = {}
        self._known: dict[str, dict[str, datetime | None]] = {name: {} for name in stores}
        """Keys of the queues of each engine, with the time of their last change."""

    def add(self, source: str, feed: ReplayFeed) -> None:
        """Add the feed of a source."""
        self._feeds[source] = feed

    def remove(self, source: str) -> None:
        """Remove the feed of a source."""
        self._feeds.pop(source, None)

    def filled(self, key: str) -> None:
        """Notify the feed of a queue that this process has filled."""
        feed = self._feeds.get(source_of_key(key))
        if feed is not None:
            feed.notify(None, (key,))

    async def run(self) -> None:
        """List the queues again and again. Never returns."""
        while True:
            # Side by side: an engine that does not answer delays no other
            await asyncio.gather(*(self._inspect(name) for name in self._stores))
            await asyncio.sleep(READ_SECONDS)

    async def _inspect(self, engine: str) -> None:
        try:
            found = await self._stores[engine].list()
        except EngineError as error:
            log.info("replay queues cannot be listed", action="hold", engine=engine, detail=str(error))
            return
        known, self._known[engine] = self._known[engine], found
        keys: dict[str, list[str]] = defaultdict(list)
        for key in found:
            keys[source_of_key(key)].append(key)
        for source, feed in list(self._feeds.items()):
            mine = keys.get(source, ())
            feed.notify(mine, [key for key in mine if found[key] is None or found[key] != known.get(key)])
