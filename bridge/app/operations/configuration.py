"""Operations on the configuration of a daemon: its content and problems, reload, earlier versions, comparison."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any
from uuid import uuid4

from pydantic import Field
from typing_extensions import TypedDict

from bridge.app import configurations
from bridge.app.candidate import load_candidate
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.app.reload.changes import differing_paths
from bridge.config.source import Loaded
from bridge.core.errors import ConfigError, InstanceNotFound, InvalidCommand, Problem
from bridge.engines.entities.reload_requests import ReloadRequests
from bridge.system.clock import time_of

_REASON = 500
"""Most characters of the reason that is kept on the engine."""


class CompareConfiguration(Parameters):
    """Comparison of the configuration in use with another one.

    other: `candidate`, or an earlier version that the daemon has kept; see `config.history`.
    """

    other: str = Field("candidate", pattern="^(candidate|[0-9a-f]{12})$")


@dataclass(frozen=True, slots=True)
class StartedConfiguration:
    """Start of a daemon, or reload, with a configuration. kept: `config.diff` can compare it."""

    version: str
    at: str
    kept: bool
    is_current: bool


@dataclass(frozen=True, slots=True)
class ChangedSetting:
    """Setting with different values, like `sources.orders.topics`, with secrets masked. A side without it has null."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class ConfigurationDifference:
    """Difference between two configurations: from an earlier one to the one in use, or from that to its candidate."""

    old: str
    new: str
    settings: tuple[ChangedSetting, ...]


class Configuration(TypedDict):
    """Configuration of the daemon. effective: YAML with the origin of each value, secrets masked."""

    version: str
    directory: str
    effective: str


async def _history(scene: Scene, given: Parameters) -> Any:
    loaded = scene.loaded
    known = await asyncio.to_thread(configurations.starts, loaded)
    kept = await asyncio.to_thread(configurations.versions, loaded)
    return [
        asdict(
            StartedConfiguration(each.version, time_of(each.at), each.version in kept, each.version == loaded.version)
        )
        for each in reversed(known)
    ]


async def _diff(scene: Scene, given: CompareConfiguration) -> Any:
    loaded = scene.loaded
    if given.other == "candidate":
        try:
            candidate = await asyncio.to_thread(load_candidate, loaded)
        except ConfigError as error:
            raise InvalidCommand(f"the candidate cannot be used: {error}") from None
        if candidate is None:
            raise InstanceNotFound("the configuration has no candidate (`rules.candidate`)")
        old, new = loaded, candidate
    else:
        earlier = await asyncio.to_thread(configurations.version, loaded, given.other)
        if earlier is None:
            raise InstanceNotFound(f"the configuration {given.other} is not kept")
        old, new = earlier, loaded
    return asdict(ConfigurationDifference(old.version, new.version, tuple(_settings(old, new))))


def _settings(old: Loaded, new: Loaded) -> Iterator[ChangedSetting]:
    before, after = _by_name(old), _by_name(new)
    for path in differing_paths(before, after):
        yield ChangedSetting(".".join(path), _value(before, path), _value(after, path))


def _by_name(loaded: Loaded) -> dict[str, Any]:
    """Values of a configuration with masked secrets. Its routes are a mapping by name."""
    found: dict[str, Any] = loaded.masked()
    return found | {"routes": {route["name"]: route for route in found.get("routes", ())}}


def _value(document: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(document, Mapping) or name not in document:
            return None
        document = document[name]
    return document


async def _configuration(scene: Scene, given: Parameters) -> Any:
    loaded = scene.loaded
    return {"version": loaded.version, "directory": str(loaded.base), "effective": loaded.effective()}


async def _problems(scene: Scene, given: Parameters) -> Any:
    return [asdict(each) for each in await asyncio.to_thread(scene.problems)]


async def _routes(scene: Scene, given: Parameters) -> Any:
    return [each.model_dump(mode="json", exclude_none=True, by_alias=True) for each in scene.loaded.config.routes]


async def _targets(scene: Scene, given: Parameters) -> Any:
    return {
        name: each.model_dump(mode="json", exclude_none=True, by_alias=True)
        for name, each in scene.loaded.config.targets.items()
    }


async def _reload(scene: Scene, given: Parameters) -> Any:
    return await _reloads(scene)(False, scene.actor.name)


async def _plan(scene: Scene, given: Parameters) -> Any:
    return await _reloads(scene)(True, scene.actor.name)


async def _all(scene: Scene, given: Parameters) -> Any:
    value = {"id": uuid4().hex, "at": time.time(), "by": scene.actor.name, "reason": (given.reason or "")[:_REASON]}
    return _shown(await ReloadRequests(await scene.engine()).request(value))


async def _show(scene: Scene, given: Parameters) -> Any:
    return _shown(await ReloadRequests(await scene.engine()).load())


def _shown(state: Mapping[str, Any]) -> dict[str, Any]:
    """State of `ReloadRequests` as JSON types."""
    request = state["request"]
    return {
        "request": None if request is None else {**request, "at": time_of(request["at"])},
        "daemons": {name: {**each, "at": time_of(each["at"])} for name, each in state["daemons"].items()},
    }


def _reloads(scene: Scene) -> Any:
    if scene.reload is None:
        raise InvalidCommand("only a running daemon has a configuration to reload; start it with `bridge serve`")
    return scene.reload


CONFIGURATION_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation("config.show", "operator", "config", Parameters, _configuration, Configuration, only_reads=True),
    Operation("config.problems", "reader", "problems", Parameters, _problems, list[Problem]),
    Operation("routes.list", "reader", "routes", Parameters, _routes, list[dict[str, Any]]),
    Operation("targets.list", "reader", "targets", Parameters, _targets, dict[str, dict[str, Any]]),
    Operation(
        "reload", "operator", "config:reload", Parameters, _reload, dict[str, Any],
        failure=lambda answer: "reload_refused" if answer["result"] == "refused" else None,
    ),
    Operation("reload.all", "operator", "config:reload-all", Parameters, _all, dict[str, Any]),
    Operation("reload.show", "reader", "config/reload", Parameters, _show, dict[str, Any]),
    Operation(
        "config.history", "operator", "config/history", Parameters, _history, list[StartedConfiguration],
        only_reads=True,
    ),
    Operation(
        "config.diff", "operator", "config/diff", CompareConfiguration, _diff, ConfigurationDifference,
        only_reads=True,
    ),
    Operation("reload.plan", "reader", "config/reload:plan", Parameters, _plan, dict[str, Any]),
)  # fmt: skip
