"""Steps of a move to another engine that a new version of the configuration skips."""

from __future__ import annotations

from collections.abc import Iterator

from bridge.app import configurations
from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.engines import EmbeddedEngineConfig
from bridge.config.source import Loaded
from bridge.core.errors import Problem
from bridge.core.problems.codes import coded


def skipped_steps(loaded: Loaded) -> Iterator[Problem]:
    """Problems with the step from the configuration with which a daemon started last to this one."""
    former = _former(loaded)
    if former is not None:
        for index, what in steps(former.config, loaded.config):
            yield coded("C025", loaded.locate(("routes", index), what))


def steps(before: BridgeConfig, after: BridgeConfig) -> Iterator[tuple[int, str]]:
    """Skipped steps between two configurations: index of the route in the later one, and a description."""
    known = {route.name: route for route in before.routes}
    for index, route in enumerate(after.routes):
        old = known.get(route.name)
        if old is None:
            continue
        # One process has an embedded engine, and with it all sources
        shared = any(not isinstance(before.engines.get(name), EmbeddedEngineConfig) for name in old.find)
        if route.engine not in old.find and shared:
            what = (
                f"route {route.name} starts instances on {route.engine}, where daemons with the former configuration "
                f"do not look: they would start the same instances on {old.engine} again. First run all daemons with "
                f"`engine: {{start: {old.engine}, find: [{', '.join((route.engine, *old.find))}]}}`"
            )
            yield index, what
        for name in old.find:
            if name not in route.find:
                what = (
                    f"route {route.name} does not find instances on {name} any more; go on only if "
                    f"`bridge engine drain {name}` says that nothing is left, else write "
                    f"`engine: {{start: {route.engine}, find: [{', '.join((*route.find, name))}]}}`"
                )
                yield index, what


def _former(loaded: Loaded) -> Loaded | None:
    """Configuration with which a daemon started last, if it is another one and was kept."""
    started = configurations.starts(loaded)
    if not started or started[-1].version == loaded.version:
        return None
    return configurations.version(loaded, started[-1].version)
