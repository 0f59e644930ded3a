"""Operations on engines: their list, and for autoscaling the workers that the work needs, as one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from bridge.app import state
from bridge.app.composition import require
from bridge.app.operations.operation import TABLE, Operation, Parameters, Scene
from bridge.engines.workload import Workload, capacity, workload_of


class EngineResult(TypedDict):
    name: str
    type: str
    fingerprint: str
    table: int


class KindOfWork(TypedDict):
    """Work items of one kind. capacity: number on which one process works at once."""

    waiting: int
    held: int
    capacity: int


class EngineWork(TypedDict):
    engine: str
    workers: float
    kinds: dict[str, KindOfWork]


class Scaling(TypedDict):
    """Processes with workers that would run all work items at once: the most that an engine needs for one kind."""

    workers: float
    engines: list[EngineWork]


async def _engines(scene: Scene, given: Parameters) -> Any:
    return [
        {"name": name, "type": config.type, "fingerprint": state.fingerprint(scene.loaded, name), "table": TABLE}
        for name, config in scene.loaded.config.engines.items()
    ]


async def _of_engines(scene: Scene, given: Parameters) -> Any:
    """Raises: LookupError for an engine that tells no numbers."""
    loaded = scene.loaded.config
    found = []
    for name, engine in (await scene.engines(given.engine)).items():
        config = loaded.engines[name]
        work = await workload_of(engine.client, loaded.workflows.external, config.worker.versions)
        if work is None:
            raise LookupError(
                f"the engine {name} does not tell how many work items it has; ask each process with workers: "
                "`GET scaling:process`"
            )
        found.append(_line(name, work, capacity(config)))
    return _answer(found)


async def _of_process(scene: Scene, given: Parameters) -> Any:
    """Raises: LookupError for an unknown engine, and in a process without workers."""
    engines = scene.loaded.config.engines
    if given.engine is not None:
        require("engine", given.engine, engines)
    found = []
    for name in engines if given.engine is None else [given.engine]:
        work = scene.held(name)
        if work is None:
            raise LookupError("this process has no workers; ask a process that runs workflows")
        found.append(_line(name, work, capacity(engines[name])))
    return _answer(found)


def _line(name: str, work: Workload, most: Mapping[str, int]) -> EngineWork:
    kinds: dict[str, KindOfWork] = {
        kind: {"waiting": work.waiting.get(kind, 0), "held": work.held.get(kind, 0), "capacity": number}
        for kind, number in most.items()
    }
    needed = max((each["waiting"] + each["held"]) / each["capacity"] for each in kinds.values())
    return {"engine": name, "workers": round(needed, 3), "kinds": kinds}


def _answer(found: list[EngineWork]) -> Scaling:
    # The workers of one process serve all engines
    return {"workers": max(each["workers"] for each in found), "engines": found}


ENGINE_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("engines.list", "reader", "engines", Parameters, _engines, list[EngineResult]),
    Operation("scaling.engines", "reader", "scaling", Parameters, _of_engines, Scaling),
    Operation("scaling.process", "reader", "scaling:process", Parameters, _of_process, Scaling),
)
