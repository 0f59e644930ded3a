"""Operations on sources: states, pauses, lag, and moves of positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from typing_extensions import TypedDict

from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.app.operations.sources import positions, states
from bridge.engines.entities.source_seeks import SourceSeeks, pending
from bridge.system.clock import time_of


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


class OneSource(Parameters):
    source: str


class ResumeSource(OneSource):
    route: str | None = None


class PlanSeek(OneSource):
    """Move of a source's positions.

    to: `beginning`, `end`, an offset, a time, or a duration like `2h-ago`.
    topic, partition: only these; None: all.
    """

    to: str
    topic: str | None = None
    partition: Annotated[int | None, BeforeValidator(_number)] = None


class SeekSource(OneSource):
    """Moves of a source's positions. positions: offsets by partition, like `orders/0`."""

    positions: Mapping[str, int]


class Paused(TypedDict):
    source: str
    since: str


class Resumed(TypedDict):
    source: str
    paused: bool
    routes: list[str]


class SourceLine(TypedDict, total=False):
    source: str
    route: str | None
    state: str | None
    pause: float | None
    next: float | None
    seek: list[str]
    since: str
    by: str
    reason: str


class Cancelled(TypedDict):
    cancelled: list[str]


async def _sources(scene: Scene, given: Parameters) -> Any:
    return await states.states_on(scene.loaded, await scene.engines(given.engine))


async def _pause_source(scene: Scene, given: OneSource) -> Any:
    pause = await states.pause(scene.loaded, await scene.engine(), given.source, scene.actor.name, given.reason or "")
    return {"source": given.source, "since": time_of(pause.since)}


async def _resume_source(scene: Scene, given: ResumeSource) -> Any:
    paused, routes = await states.resume(scene.loaded, await scene.engine(), given.source, given.route)
    return {"source": given.source, "paused": paused, "routes": routes}


async def _lag(scene: Scene, given: OneSource) -> Any:
    return await positions.lag(scene.loaded, given.source)


async def _plan_seek(scene: Scene, given: PlanSeek) -> Any:
    return await positions.plan(scene.loaded, given.source, given.to, given.topic, given.partition)


async def _seeks(scene: Scene, given: OneSource) -> Any:
    return _shown(await SourceSeeks(await scene.engine()).of(given.source))


async def _seek_source(scene: Scene, given: SeekSource) -> Any:
    moves = await positions.seek(
        scene.loaded, await scene.engine(), given.source, given.positions, scene.actor.name, given.reason or ""
    )
    return _shown(moves)


def _shown(moves: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Moves by partition, as JSON types. An applied one has the time of its application, too."""
    shown: dict[str, Any] = {}
    for partition, move in moves.items():
        shown[partition] = {**move, "at": time_of(move["at"])}
        if "moved" in move:
            shown[partition]["moved"] = {**move["moved"], "at": time_of(move["moved"]["at"])}
    return shown


async def _cancel_seek(scene: Scene, given: OneSource) -> Any:
    engine = await scene.engine()
    states.check_engine(scene.loaded, engine, given.source)
    seeks = SourceSeeks(engine)
    left = pending(await seeks.of(given.source))
    await seeks.cancel(given.source)
    return {"cancelled": sorted(left)}


SOURCE_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("sources.list", "reader", "sources", Parameters, _sources, list[SourceLine]),
    Operation(
        "sources.pause", "operator", "sources/{source}:pause", OneSource, _pause_source, Paused,
        lambda given: given.source,
        place=states.place,
    ),
    Operation(
        "sources.resume", "operator", "sources/{source}:resume", ResumeSource, _resume_source, Resumed,
        lambda given: given.source, lambda given: {"route": given.route}, place=states.place,
    ),
    Operation("sources.lag", "reader", "sources/{source}/lag", OneSource, _lag, list[dict[str, Any]]),
    Operation("sources.seek.plan", "reader", "sources/{source}/seek:plan", PlanSeek, _plan_seek, dict[str, Any]),
    Operation(
        "sources.seek.show", "reader", "sources/{source}/seek", OneSource, _seeks, dict[str, Any],
        place=states.place,
    ),
    Operation(
        "sources.seek", "operator", "sources/{source}:seek", SeekSource, _seek_source, dict[str, Any],
        lambda given: given.source,
        lambda given: {"positions": given.positions}, place=states.place,
    ),
    Operation(
        "sources.seek.cancel", "operator", "sources/{source}/seek:cancel", OneSource, _cancel_seek, Cancelled,
        lambda given: given.source, place=states.place,
    ),
)  # fmt: skip
