"""Changes between two versions of a configuration, in the terms of a reload. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import RouteConfig
from bridge.config.source import Loaded, state_engine
from bridge.quarantine.orphaned import quarantine_engine

RESTART = ("engines", "brokers", "registries", "workflows.modules", "events", "ops")
"""Sections whose changes need a restart, apart from some of an engine."""

_LIVE_OF_ENGINE = frozenset(
    f"early_messages.{name}" for name in ("max_messages", "max_bytes", "max_message", "total_messages", "total_bytes")
)
"""Settings of an engine that change while it runs."""

_LIVE_LIMITS = frozenset(
    (
        "max_payload",
        "max_depth",
        "schema_cost",
        "expression_cost",
        "max_command_bytes",
        "max_commands",
        "max_values",
        "max_decoded",
        "max_replays",
        "max_queued_replays",
        "max_queued_replay_bytes",
    )
)
_RULES = frozenset(
    ("codec", "registry", "attributes", "identity", "schema", "upcast", "no_match", "retry", "retention", "limits")
)
"""Settings of a source that belong to its rule set. A change of any other one restarts the source."""

_IDENTITY = ("engine", "for_each", "map")
_COMMAND_IDENTITY = (
    "instance_id", "orchestration", "saga", "version", "name", "entity", "key", "operation", "correlation_id",
)  # fmt: skip
"""Settings of a command that decide which effect a repeated message finds."""


class ChangeKind(StrEnum):
    """Change of a source or route. RESTARTED: the source drains and starts again, alone. RULES: without a pause."""

    ADDED = "added"
    REMOVED = "removed"
    RESTARTED = "restarted"
    RULES = "rules"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class RouteChange:
    """Change of a route.

    keys: changed settings.
    sources: sources of the old and the new route.
    repeats: True if a redelivered message that the old rules have executed may have an effect again.
    """

    route: str
    change: ChangeKind
    keys: tuple[str, ...] = ()
    sources: frozenset[str] = frozenset()
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class SourceChange:
    """Change of a source. keys: changed settings, like `topics` or `limits.max_in_flight`. routes: changed ones."""

    source: str
    change: ChangeKind
    keys: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes between two configurations.

    restart: changed settings that need a restart of the daemon.
    settings: other changed settings outside of sources and routes, like `vars.currency`, and changed files.
    """

    sources: tuple[SourceChange, ...]
    routes: tuple[RouteChange, ...]
    settings: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """True when anything has changed."""
        changed = [each for each in self.sources if each.change is not ChangeKind.UNCHANGED]
        return bool(changed or self.routes or self.settings or self.restart)


def changes(loaded: Loaded, other: Loaded, files: Sequence[str] = ()) -> Changes:
    """Compare the configuration of a daemon with another one. files: JSON Schema files whose content has changed."""
    old, new = loaded.config, other.config
    restart: list[str] = []
    settings = list(files)
    for path in differences(_shown(old), _shown(new)):
        section, _, rest = path.partition(".")
        if section in ("sources", "routes", "check"):
            continue
        live = section == "engines" and rest.partition(".")[2] in _LIVE_OF_ENGINE
        needs = not live and any(path == each or path.startswith(f"{each}.") for each in RESTART)
        (restart if needs else settings).append(path)
    routes = _routes(old, new)
    return Changes(_sources(loaded, other, routes), routes, tuple(settings), tuple(restart))


def differences(old: Any, new: Any) -> Iterator[str]:
    """Dotted paths of the values in which two nested mappings differ."""
    return map(".".join, differing_paths(old, new))


def differing_paths(old: Any, new: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of the values in which two nested mappings differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys((*old, *new)):
            if key not in old or key not in new:
                yield (*path, str(key))
            else:
                yield from differing_paths(old[key], new[key], (*path, str(key)))
    elif old != new or type(old) is not type(new):
        yield path


def _shown(config: BridgeConfig) -> dict[str, Any]:
    """Configuration with its secrets, which compare by value."""
    return config.model_dump(by_alias=True, exclude={"sources", "routes"})


def _routes(old: BridgeConfig, new: BridgeConfig) -> tuple[RouteChange, ...]:
    before, after = ({route.name: route for route in config.routes} for config in (old, new))
    kept = [name for name in before if name in after]
    moved = set() if kept == [name for name in after if name in before] else _moved(kept, [*after])
    found = []
    for name in dict.fromkeys((*after, *before)):
        first, last = before.get(name), after.get(name)
        sources = frozenset(each for route in (first, last) if route is not None for each in route.from_)
        if first is None:
            found.append(RouteChange(name, ChangeKind.ADDED, (), sources))
        elif last is None:
            found.append(RouteChange(name, ChangeKind.REMOVED, (), sources, repeats=True))
        else:
            keys = tuple(differences(_members(first), _members(last)))
            if name in moved:
                keys = (*keys, "order")
            if keys:
                found.append(RouteChange(name, ChangeKind.CHANGED, keys, sources, repeats=_repeats(first, last, keys)))
    return tuple(found)


def _members(route: RouteConfig) -> dict[str, Any]:
    return route.model_dump(by_alias=True, exclude={"name"})


def _moved(before: Sequence[str], after: Sequence[str]) -> set[str]:
    """Routes that another route now comes before or after."""
    kept = [name for name in after if name in set(before)]
    return {name for at, name in enumerate(before) if kept[at] != name}


def _repeats(old: RouteConfig, new: RouteConfig, keys: Sequence[str]) -> bool:
    if old.command != new.command:
        return True
    if set(old.find) <= set(new.find):
        # Instances that know the message are found
        keys = [key for key in keys if key.split(".")[0] != "engine"]
    return any(
        key.split(".")[0] in _IDENTITY or (key.startswith(f"{new.command}.") and key.split(".")[1] in _COMMAND_IDENTITY)
        for key in keys
    )


def _sources(loaded: Loaded, other: Loaded, routes: Sequence[RouteChange]) -> tuple[SourceChange, ...]:
    old, new = loaded.config, other.config
    found: dict[str, SourceChange] = {}
    shared = any(differences(old.vars, new.vars)) or any(
        differences(old.model_dump(include={"sagas"}), new.model_dump(include={"sagas"}))
    )
    for name in dict.fromkeys((*new.sources, *old.sources)):
        mine = tuple(each.route for each in routes if name in each.sources)
        if name not in old.sources:
            found[name] = SourceChange(name, ChangeKind.ADDED, (), mine)
        elif name not in new.sources:
            found[name] = SourceChange(name, ChangeKind.REMOVED, (), mine)
        else:
            keys, restarts = _source_keys(loaded, other, name)
            change = ChangeKind.RULES if keys or mine or shared else ChangeKind.UNCHANGED
            found[name] = SourceChange(name, ChangeKind.RESTARTED if restarts else change, keys, mine)
    # Abandoned messages of a draining source must not be overtaken by later ones of its ordering domain
    domains = {
        config.sources[each.source].ordering_domain
        for each in found.values()
        if each.change in (ChangeKind.REMOVED, ChangeKind.RESTARTED)
        for config in (old, new)
        if each.source in config.sources
    } - {None}
    for name, each in found.items():
        if each.change in (ChangeKind.RULES, ChangeKind.UNCHANGED) and new.sources[name].ordering_domain in domains:
            found[name] = SourceChange(name, ChangeKind.RESTARTED, (*each.keys, "ordering_domain"), each.routes)
    return tuple(found.values())


def _source_keys(old: Loaded, new: Loaded, name: str) -> tuple[tuple[str, ...], bool]:
    """Changed settings of a source, with True if one of them restarts it."""
    first, last = (each.config.sources[name].model_dump(by_alias=True) for each in (old, new))
    keys = tuple(differences(first, last))
    restarts = any(not belongs_to_rules(key) for key in keys)
    # The engines that keep its state and its messages follow from the routes
    for word, engine_of in (("state engine", state_engine), ("quarantine engine", quarantine_engine)):
        if engine_of(old, name) != engine_of(new, name):
            keys, restarts = (*keys, word), True
    return keys, restarts


def belongs_to_rules(key: str) -> bool:
    """True for a setting of a source that changes with its rule set, without a restart of the source."""
    first, _, rest = key.partition(".")
    return first in _RULES and (first != "limits" or rest in _LIVE_LIMITS)
