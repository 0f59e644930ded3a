"""Shadows from the command line: in the daemons of this machine, or alone with messages read from the brokers."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.app import state
from bridge.app.composition import build_broker
from bridge.app.messages.topic import messages
from bridge.app.operations.client import FIND_SECONDS
from bridge.app.rules.comparison import ConfigurationRules, RulesComparison, merged
from bridge.app.rules.diff import Receivers
from bridge.app.serve.control import request
from bridge.app.serve.shadow import SHADOW, ShadowOptions
from bridge.brokers.base import ListingBroker, LogBroker, ReadOptions
from bridge.config.source import Loaded
from bridge.core.errors import EngineTimeout
from bridge.ops.control import DIRECTORY, sockets
from bridge.system.tasks import cancelled

_POLL_SECONDS = 0.5
_COMPILE_SECONDS = 60.0
"""Seconds for a daemon to compile the candidate."""


@dataclass
class Reports:
    """Reports of daemons. silent: names of those that did not answer."""

    found: list[Mapping[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """True while the shadow of a daemon runs."""
        return any(report["running"] for report in self.found)

    def to_dict(self) -> dict[str, Any]:
        """Sum of the reports as JSON types."""
        numbers = {name: sum(each[name] for each in self.found) for name in ("settled", "shed", "failed", "waiting")}
        return {
            "daemons": [each["daemon"] for each in self.found],
            "silent": self.silent,
            "running": self.running,
            **numbers,
            **merged(self.found),
        }


async def _each(loaded: Loaded, method: str, place: str, seconds: float, given: Mapping[str, Any] | None) -> Reports:
    """Send a request to every daemon of the state directory. Raises: BridgeError, if a daemon refuses."""
    paths = sockets(state.state_directory(loaded) / DIRECTORY)

    async def asked(path: Path) -> Any:
        async with asyncio.timeout(seconds):
            return await request(path, "shadow", method, place, given)

    answers = await asyncio.gather(*(asked(path) for path in paths), return_exceptions=True)
    reports = Reports()
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, Mapping):
            reports.found.append(answer)
        elif isinstance(answer, TimeoutError | EngineTimeout):
            if not isinstance(answer.__cause__, OSError):  # otherwise the socket of a killed daemon
                reports.silent.append(path.name.partition("-")[0])
        elif isinstance(answer, BaseException):
            raise answer
    return reports


async def start(loaded: Loaded, options: ShadowOptions) -> Reports:
    """Start a shadow in every daemon of this machine. Without one, the reports are empty. Raises: BridgeError."""
    return await _each(loaded, "POST", SHADOW, _COMPILE_SECONDS, options.model_dump(mode="json"))


async def report(loaded: Loaded) -> Reports:
    """Reports of the running or last shadows. Raises: BridgeError."""
    return await _each(loaded, "GET", SHADOW, FIND_SECONDS, None)


async def stop(loaded: Loaded) -> Reports:
    """End the shadows of all daemons; return their reports. Raises: BridgeError."""
    return await _each(loaded, "POST", f"{SHADOW}:stop", 2 * FIND_SECONDS, None)


async def watch(loaded: Loaded, seconds: float, progress: Callable[[int], None]) -> Reports:
    """Reports of the shadows at their end. Ctrl-C ends them early."""
    end = time.monotonic() + seconds + _COMPILE_SECONDS
    try:
        while True:
            found = await report(loaded)
            progress(sum(each["messages"] for each in found.found))
            if not found.running or time.monotonic() > end:
                return found
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:
        return await stop(loaded)


@dataclass
class StandaloneComparison:
    """Comparison without a daemon.

    seen: share of the sequence numbers of each queue that could be peeked, by topic: consumers take messages away.
    """

    comparison: RulesComparison
    seen: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Result as JSON types."""
        return {"daemons": [], "silent": [], "seen": self.seen, **self.comparison.to_dict()}


async def compare_topics(
    loaded: Loaded,
    candidate: Loaded,
    sources: Sequence[str],
    seconds: float,
    share: float,
    progress: Callable[[int], None],
) -> StandaloneComparison:
    """Compare new messages of topics as they arrive. Joins no group and commits no position. Ctrl-C ends it early.

    sources: names; empty: all.
    Raises: ConfigError, BrokerError, BrokerUnavailable, RegistryUnavailable.
    """
    sides = ConfigurationRules(loaded), ConfigurationRules(candidate)
    found = StandaloneComparison(RulesComparison(*sides))
    receivers = Receivers(loaded, candidate, None)

    async def follow(broker: str, topic: str, is_log: bool) -> None:
        names = [name for name in receivers.of_topic(topic) if not sources or name in sources]
        due, first, count = 0.0, None, 0
        async with aclosing(messages(loaded, broker, ReadOptions(topic, "latest", follow=True))) as arrived:
            async for position, message in arrived:
                count += 1
                if not is_log:
                    first = position.offset if first is None else first
                    found.seen[topic] = round(count / max(count, position.offset - first + 1), 4)
                due += share
                if due < 1.0:
                    continue
                due -= 1.0
                for name in names:
                    await found.comparison.add(name, message, position)
                progress(found.comparison.messages)

    following: list[asyncio.Task[None]] = []
    try:
        for side in sides:
            side.compile()
        with suppress(TimeoutError, asyncio.CancelledError):
            async with asyncio.timeout(seconds):
                topics = await _topics(loaded, sources)
                following += (asyncio.create_task(follow(*each)) for each in topics)
                if following:
                    await asyncio.wait(following, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        await cancelled(*following)
        for side in sides:
            await side.close()
    for task in following:
        if not task.cancelled():
            task.result()
    return found


async def _topics(loaded: Loaded, sources: Sequence[str]) -> list[tuple[str, str, bool]]:
    """Broker and topic of each source, and True for logs. Raises: BrokerUnavailable."""
    found: dict[tuple[str, str], bool] = {}
    for name, config in loaded.config.sources.items():
        if sources and name not in sources:
            continue
        broker = build_broker(loaded, config.broker)
        topics = list(config.origins)
        if config.kafka is not None and config.kafka.pattern is not None:
            assert isinstance(broker, ListingBroker)
            await broker.start()
            try:
                topics += [topic for topic in await broker.topics() or () if re.match(config.kafka.pattern, topic)]
            finally:
                await broker.stop()
        found |= {(config.broker, topic): isinstance(broker, LogBroker) for topic in topics}
    return [(broker, topic, is_log) for (broker, topic), is_log in found.items()]
