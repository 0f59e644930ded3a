"""Lineage in the daemon: records of dead letters, and answers about messages in flight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import structlog

from bridge.app.composition import subscribe_options
from bridge.config.source import Loaded
from bridge.core.errors import EngineError
from bridge.core.lineage.records import dead_letter_record
from bridge.core.message import Position
from bridge.core.provenance import Cause
from bridge.engines.base import Engine
from bridge.pipeline.in_flight_search import find
from bridge.pipeline.settings import RecordDeadLetter
from bridge.pipeline.source import SourcePipeline

log = structlog.get_logger("bridge.lineage")

MOST = 100
"""Most messages in flight in one answer. A key may have more."""


def recorder(loaded: Loaded, source: str, engine: Engine) -> RecordDeadLetter | None:
    """Callback that records the dead letters of a source on an engine; None where that keeps no lineage."""
    index = engine.lineage
    if not engine.keeps_lineage and index is None:
        return None
    name = subscribe_options(loaded, source).dead_letter or "{topic}/$DeadLetterQueue"

    async def record(cause: Cause, position: Position) -> None:
        found = dead_letter_record(cause, position, name.replace("{topic}", position.topic))
        if index is not None:
            index.dead_letter(found)
            return
        try:
            await engine.client.record_lineage(found)
        except EngineError as error:
            # The dead letter itself is written: `bridge trace` finds it in its topic
            log.warning(
                f"the lineage index has no entry for the dead letter of {position}; `bridge trace` reads its topic",
                action="lineage", source=source, engine=engine.name, position=str(position), detail=str(error),
            )  # fmt: skip

    return record


def in_flight(sources: Sequence[SourcePipeline], wanted: str) -> list[dict[str, Any]]:
    """Messages in flight in this process that a person may mean, as JSON."""
    found: list[dict[str, Any]] = []
    for source in sources:
        for each in find(source, wanted):
            found.append(asdict(each))
            if len(found) == MOST:
                return found
    return found
