"""Shadow of a daemon: decides about its messages with a candidate configuration too, and compares. Executes nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self

import structlog
from pydantic import Field, ValidationError

from bridge.app.composition import module_base
from bridge.app.rules.comparison import ConfigurationRules, RulesComparison
from bridge.app.serve.views.status import daemon_id
from bridge.config.model.types import Model
from bridge.config.source import Loaded, load
from bridge.core.errors import EngineOutage, InvalidCommand, RegistryUnavailable
from bridge.core.message import Message, Position
from bridge.pipeline.decisions import DecisionListeners, SettledDelivery

log = structlog.get_logger("bridge.shadow")

SHADOW = "shadow"
"""Path of the shadow below /api/v1/."""
MOST_MESSAGES = 1000
"""Messages that wait for their comparison. Further ones are shed."""
MOST_BYTES = 16 * 1024 * 1024
"""Bytes of these messages."""
PROCESSOR = 0.1
"""Share of one processor that comparisons take."""
LONGEST = 24 * 3600.0
"""Seconds of the longest shadow."""
_SLICE = 0.005
"""Seconds of work without a pause."""
_BATCH = 100
"""Most messages of one slice."""
_FINISH_SECONDS = 5.0
"""Seconds at the end for messages that wait."""


class ShadowOptions(Model):
    """Options of a shadow.

    candidate, overlays: absolute paths of the configuration.
    sources: names; empty: all.
    seconds: duration.
    share: share of the messages that are compared.
    """

    candidate: tuple[str, ...] = Field(min_length=1)
    overlays: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    seconds: Annotated[float, Field(gt=0, le=LONGEST)] = 600.0
    share: Annotated[float, Field(gt=0, le=1)] = 1.0

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> Self:
        """Options of a request. Raises: InvalidCommand, without their values."""
        try:
            return cls(**given)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            raise InvalidCommand(f"shadow: `{'.'.join(map(str, first['loc']))[:100]}`: {first['msg']}") from None


class Shadow:
    """One comparison with a candidate. Its `take` is a listener of decisions."""

    def __init__(self, comparison: RulesComparison, version: str, options: ShadowOptions) -> None:
        """Create the shadow. version: of the candidate."""
        self._comparison = comparison
        self._version = version
        self._sources = frozenset(options.sources)
        self._share = options.share
        self._due = 0.0
        self._queue: deque[tuple[str, Message, Position]] = deque()
        self._bytes = 0
        self._arrived = asyncio.Event()
        self.began = time.time()
        self.seconds = options.seconds
        self.settled = self.shed = self.failed = 0
        self.running = True
        self._stopped = False

    def offer(self, settled: SettledDelivery) -> None:
        """Queue a delivery that is selected. Messages that an engine stored were compared when they came first."""
        if settled.is_stored or (self._sources and settled.source not in self._sources):
            return
        self.settled += 1
        self._due += self._share
        if self._due < 1.0:
            return
        self._due -= 1.0
        message = settled.delivery.message
        if len(self._queue) >= MOST_MESSAGES or self._bytes + message.size > MOST_BYTES:
            self.shed += 1
            return
        self._queue.append((settled.source, message, settled.delivery.position))
        self._bytes += message.size
        self._arrived.set()

    async def run(self) -> None:
        """Compare messages within the share of the processor, until the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.seconds
        while not self._stopped and loop.time() < end:
            if self._queue:
                await self._slice()
            else:
                self._arrived.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(end):
                        await self._arrived.wait()

    async def finish(self) -> None:
        """Compare messages that wait, as many as a few seconds allow."""
        end = time.monotonic() + _FINISH_SECONDS
        while self._queue and time.monotonic() < end and not self._stopped:
            await self._slice()

    def end(self) -> None:
        """Report the end of the comparison."""
        self.running = False

    def stop(self) -> None:
        """End the shadow soon."""
        self._stopped = True
        self._arrived.set()

    async def _slice(self) -> None:
        """Compare messages for a moment, and pause for the rest of the processor's time."""
        batch: list[tuple[str, Message, Position]] = []
        while self._queue and len(batch) < _BATCH:
            source, message, position = self._queue.popleft()
            self._bytes -= message.size
            try:
                for side in (self._comparison.old, self._comparison.new):
                    await side.prepare(source, message)
            except (EngineOutage, RegistryUnavailable):
                self.failed += 1
            else:
                batch.append((source, message, position))
        worked, left = await asyncio.to_thread(self._compare, batch)
        self._queue.extendleft(reversed(left))
        self._bytes += sum(message.size for _, message, _ in left)
        await asyncio.sleep(worked * (1.0 / PROCESSOR - 1.0))

    def _compare(self, batch: list[tuple[str, Message, Position]]) -> tuple[float, list[tuple[str, Message, Position]]]:
        began = time.thread_time()
        for at, each in enumerate(batch):
            if at and time.thread_time() - began > _SLICE:
                return time.thread_time() - began, batch[at:]
            try:
                self._comparison.compare(*each)
            except Exception:  # a function of the candidate's `map` may raise anything
                self.failed += 1
        return time.thread_time() - began, []

    def to_dict(self) -> dict[str, Any]:
        """Report as JSON types.

        settled: deliveries of the sources. shed: those for which the queue or the processor had no room. failed: those
        that could not be compared. waiting: those that are still to be compared.
        """
        return {
            "daemon": daemon_id(os.getpid()),
            "candidate": self._version,
            "running": self.running,
            "seconds": min(self.seconds, time.time() - self.began),
            "settled": self.settled,
            "shed": self.shed,
            "failed": self.failed,
            "waiting": len(self._queue),
            **self._comparison.to_dict(),
        }


class Shadows:
    """Shadow of a daemon: one at a time. The last one stays readable."""

    def __init__(
        self, loaded: Callable[[], Loaded], decisions: DecisionListeners, registries: Mapping[str, Any] | None
    ) -> None:
        """Prepare. loaded: configuration in use. registries: schema registries of the daemon."""
        self._loaded = loaded
        self._decisions = decisions
        self._registries = registries
        self._last: Shadow | None = None
        self._task: asyncio.Task[None] | None = None
        self._starting = False

    async def start(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Start a shadow; return its first report. Raises: InvalidCommand, ConfigError."""
        options = ShadowOptions.parse(given)
        if self._starting or (self._task is not None and not self._task.done()):
            raise InvalidCommand("this daemon has a shadow already; wait for its end, or `bridge shadow --stop`")
        self._starting = True
        try:
            comparison, version = await asyncio.to_thread(self._compiled, options)
        finally:
            self._starting = False
        for name in options.sources:
            if comparison.new.of(name) is None and comparison.old.of(name) is None:
                raise InvalidCommand(f"neither configuration has the source {name!r}")
        shadow = self._last = Shadow(comparison, version, options)
        self._task = asyncio.create_task(self._run(shadow, comparison), name="shadow")
        return shadow.to_dict()

    def _compiled(self, options: ShadowOptions) -> tuple[RulesComparison, str]:
        candidate = load([Path(path) for path in options.candidate], [Path(path) for path in options.overlays])
        present = self._loaded()
        _refuse_other_code(present, candidate)
        comparison = RulesComparison(ConfigurationRules(present, self._registries or {}), ConfigurationRules(candidate))
        comparison.old.compile()
        comparison.new.compile()
        return comparison, candidate.version

    async def _run(self, shadow: Shadow, comparison: RulesComparison) -> None:
        log.info("shadow begins", action="shadow", candidate=shadow.to_dict()["candidate"], seconds=shadow.seconds)
        remove = self._decisions.add(shadow.offer)
        try:
            await shadow.run()
            remove()
            await shadow.finish()
        finally:
            remove()
            shadow.end()
            await comparison.new.close()
            log.info("shadow ends", action="shadow", messages=comparison.messages, different=comparison.different)

    async def report(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """Report of the running or the last shadow; None if there was none."""
        return None if self._last is None else self._last.to_dict()

    async def stop(self, given: Mapping[str, Any]) -> dict[str, Any] | None:
        """End the shadow; return its report."""
        await self.close()
        return await self.report(given)

    async def close(self) -> None:
        """End the shadow."""
        if self._last is not None and self._task is not None:
            self._last.stop()
            await asyncio.gather(self._task, return_exceptions=True)


def _refuse_other_code(loaded: Loaded, candidate: Loaded) -> None:
    """Refuse functions of another directory: importing them would replace modules of this process.

    Raises: InvalidCommand.
    """
    same_code = module_base(candidate) == module_base(loaded)
    own = {route.map for route in loaded.config.routes} if same_code else set()
    other = next((route for route in candidate.config.routes if route.map is not None and route.map not in own), None)
    if other is not None:
        raise InvalidCommand(
            f"the route {other.name} has `map: {other.map}`, and a daemon does not import the code of a candidate; use "
            "`bridge diff`, or `bridge shadow --offline`"
        )
