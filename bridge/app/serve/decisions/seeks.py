"""Moves of positions by people, applied to the partitions of this daemon."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

import structlog

from bridge.app.serve.views.status import daemon_id
from bridge.brokers.positions import Move, place_name, place_of
from bridge.core.errors import BrokerError, EngineError
from bridge.engines.entities.source_seeks import Seeks, SourceSeeks
from bridge.pipeline.source import SourcePipeline
from bridge.system.tasks import cancelled

log = structlog.get_logger("bridge.source")

_SHOWN = 5
"""Number of partitions that a log line names."""


class SeekApplier:
    """Background task that applies moves: the drain of a partition must not delay the pauses of other sources."""

    def __init__(self, seeks: SourceSeeks) -> None:
        self._seeks = seeks
        self._running: dict[str, asyncio.Task[None]] = {}

    def apply(self, source: SourcePipeline, seeks: Seeks) -> None:
        """Begin to apply moves, unless earlier ones of the source are in progress: the next read repeats them."""
        name = source.settings.name
        running = self._running.get(name)
        if running is None or running.done():
            self._running[name] = asyncio.create_task(self._apply(source, seeks), name=f"{name}:seek")

    async def stop(self) -> None:
        """Cancel what is in progress. Another daemon, or the next start, repeats it."""
        await cancelled(*self._running.values())

    async def _apply(self, source: SourcePipeline, seeks: Seeks) -> None:
        name = source.settings.name
        moves = {}
        for partition, each in seeks.items():
            with suppress(ValueError):
                moves[place_of(partition)] = Move(each["to"], each["stamp"])
        try:
            moved = await source.move(moves)
        except BrokerError as error:
            log.warning(f"source {name} cannot move its position yet: {error}", action="seek", source=name)
            return
        except Exception:
            log.exception(f"source {name} cannot move its position", action="seek", source=name)
            return
        if not moved:
            return
        new = [
            f"{place_name(place)} from {each.before} to {each.to}"
            for place, each in moved.items()
            if each.before is not None
        ]
        if new:
            by = seeks[place_name(next(iter(moved)))]["by"]
            more = f" and {len(new) - _SHOWN} more" if len(new) > _SHOWN else ""
            text = f"the position of source {name} was moved by {by}: {', '.join(new[:_SHOWN])}{more}"
            log.warning(text, action="seek", source=name)
        now, by = time.time(), daemon_id(os.getpid())
        report = {
            place_name(place): {"stamp": moves[place].stamp, "from": done.before, "by": by, "at": now}
            for place, done in moved.items()
        }
        # Without an answer the next read finds the positions moved, and reports again
        with suppress(EngineError):
            await self._seeks.moved(name, report)
