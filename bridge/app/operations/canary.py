"""Operations on the candidate for the rules: its record, its end by a person, and a further attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from typing_extensions import TypedDict

from bridge.app.candidate import load_candidate, record_engine
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.source import Loaded
from bridge.core.canary import CanaryRecord
from bridge.core.errors import ConfigError
from bridge.engines.entities.canary import CanaryStore
from bridge.system.clock import time_of


class OneCandidate(Parameters):
    """Candidate. version: of its configuration."""

    version: str = Field(pattern="^[0-9a-f]{12}$")


class CanaryFallback(TypedDict):
    at: str
    by: str
    reason: str


class CanaryResult(TypedDict):
    candidate: str
    state: str
    messages: int
    dead_letters: int
    failed_instances: int
    round: int
    fallback: CanaryFallback | None


async def _list(scene: Scene, given: Parameters) -> list[dict[str, Any]]:
    versions = [scene.candidate] if scene.candidate is not None else await _configured(scene)
    engine = await scene.engine()
    return [document(version, await CanaryStore(engine, version).read()) for version in versions]


async def _show(scene: Scene, given: OneCandidate) -> dict[str, Any]:
    return document(given.version, await (await _known(scene, given)).read())


async def _abort(scene: Scene, given: OneCandidate) -> dict[str, Any]:
    value = {"at": time.time(), "by": scene.actor.name, "reason": given.reason or ""}
    return document(given.version, await (await _known(scene, given)).change("abort", value))


async def _resume(scene: Scene, given: OneCandidate) -> dict[str, Any]:
    return document(given.version, await (await _known(scene, given)).change("resume", {}))


async def _known(scene: Scene, given: OneCandidate) -> CanaryStore:
    """Store of a candidate that is in use, has a record, or is configured. Raises: LookupError for any other."""
    store = CanaryStore(await scene.engine(), given.version)
    if given.version != scene.candidate and await store.find() is None:
        configured = await _configured(scene)
        if given.version not in configured:
            now = "".join(f"; the configuration names {each}" for each in configured)
            raise LookupError(f"there is no candidate {given.version}{now}")
    return store


async def _configured(scene: Scene) -> list[str]:
    """Version of the candidate of the configuration; none without one, and for one that cannot be used."""
    try:
        found = await asyncio.to_thread(load_candidate, scene.loaded)
    except ConfigError:
        return []
    return [] if found is None else [found.version]


def _place(loaded: Loaded, given: Mapping[str, Any]) -> str:
    """Engine with the records of candidates."""
    return record_engine(loaded)


def document(version: str, record: CanaryRecord) -> dict[str, Any]:
    """Record of a candidate as JSON types."""
    total, end = record.total, record.fallback
    return {
        "candidate": version,
        "state": "active" if record.fallback is None else "fallback",
        "messages": total.messages,
        "dead_letters": total.dead_letters,
        "failed_instances": total.failed,
        "round": record.round,
        "fallback": None if end is None else {"at": time_of(end.at), "by": end.by, "reason": end.reason},
    }


def _target(given: OneCandidate) -> str:
    return given.version


CANARY_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("canary.list", "reader", "canary", Parameters, _list, list[CanaryResult], place=_place),
    Operation("canary.show", "reader", "canary/{version}", OneCandidate, _show, CanaryResult, place=_place),
    Operation(
        "canary.abort", "operator", "canary/{version}:abort", OneCandidate, _abort, CanaryResult, _target, place=_place
    ),
    Operation(
        "canary.resume", "operator", "canary/{version}:resume", OneCandidate, _resume, CanaryResult, _target,
        place=_place,
    ),
)  # fmt: skip
