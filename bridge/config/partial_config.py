"""Configuration without its invalid parts, which lets the valid rest be examined in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import COMMANDS
from bridge.config.translation import paths
from bridge.config.yaml.merge import NAMED
from bridge.config.yaml.node import MappingNode, plain
from bridge.core.errors import ConfigPath

_ROUNDS = 30
"""Maximum number of rounds for one entry.

Removal of one part may expose another: a command without its instance id is removed, and the route then has no
command.
"""

_PLACEHOLDERS = {
    "from": "no.such.source",
    "no_match": "dead_letter",
    "bootstrap_servers": "none:1",
    "command": {"target": "none", "type": "none"},
}
"""Placeholders of required values by key. All others are the text `none`."""

_REQUIRED = ("name", "command")
"""Keys of steps of sagas that get a placeholder at once: without them, their step could not be examined."""

_KEPT = ("type", "orchestration", "saga", "instance_id", "registry")
"""Keys that checks need, kept in an entry whose keys do not fit together."""

_COMPLETED = {
    "kafka": {"bootstrap_servers": "none:1"},
    "servicebus": {"namespace": "none"},
    "webhook": {"url": "https://none"},
}
"""Required keys of a broker by type, beside `type`."""


@dataclass(frozen=True, slots=True)
class Partial:
    """Configuration with defaults and placeholders in place of invalid parts. It is for inspection and must never run.

    Routes and steps of sagas keep their positions. An entry that is not a route becomes a route that no source leads
    to.
    names: names of the entries by section, those of invalid entries included.
    replaced: paths of the parts that are removed or replaced.
    """

    config: BridgeConfig
    names: Mapping[str, list[str]]
    replaced: frozenset[ConfigPath] = frozenset()

    def is_given(self, *paths: ConfigPath) -> bool:
        """True if the values at all paths are the written ones, or the defaults of keys that are not written."""
        return not self.replaced or not any(
            path[:length] in self.replaced for path in paths for length in range(1, len(path) + 1)
        )

    def has(self, entry: BaseModel, path: ConfigPath, key: str) -> bool:
        """True if the entry at a path is written with a value for a key, valid or not."""
        written = key in entry.model_fields_set and getattr(entry, key) is not None
        return written or (*path, key) in self.replaced

    def compilable(self) -> BridgeConfig:
        """Configuration whose expressions can be checked: without sagas that lack a step or the name of one."""
        steps = [path for path in self.replaced if path[0] == "sagas" and len(path) > 2]
        broken = {path[1] for path in steps if isinstance(path[-1], int) or path[-1] == "name"}
        sagas = {name: saga for name, saga in self.config.sagas.items() if name not in broken}
        return self.config.model_copy(update={"sagas": sagas})


def partial_config(root: MappingNode) -> tuple[Partial, ValidationError | None]:
    """Build the valid part of a configuration. The error has the problems of the rest; None without a problem."""
    values = plain(root)
    sections = {name: root.entries.get(name) for name in NAMED}
    names = {name: list(node.entries) if isinstance(node, MappingNode) else [] for name, node in sections.items()}
    try:
        return Partial(BridgeConfig.model_validate(values, by_alias=True, by_name=False), names), None
    except ValidationError as caught:
        error = caught
    repair = _Repair(root, values)
    fields = {name: each.annotation for name, each in BridgeConfig.model_fields.items() if name in values}
    for name, annotation in fields.items():
        repair.section(name, annotation)
    valid: Any = {"engines": {}, "brokers": {}} | {name: values[name] for name in fields if name in values}
    if "routes" in valid:
        valid["routes"] = tuple(valid["routes"])
    return Partial(BridgeConfig.model_construct(**valid), names, frozenset(repair.replaced)), error


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    """Validator of the entries of a section, or of a section without entries. Its construction is costly."""
    annotation: Any = BridgeConfig.model_fields[name].annotation
    kinds = get_args(annotation)
    kind: Any = kinds[0 if name == "routes" else 1] if kinds else annotation
    return TypeAdapter(kind)


@dataclass
class _Repair:
    """Replacement of plain values by models, section by section. tried: paths of earlier problems."""

    root: MappingNode
    values: dict[str, Any]
    replaced: set[ConfigPath] = field(default_factory=set)
    tried: set[ConfigPath] = field(default_factory=set)

    def section(self, name: str, annotation: Any) -> None:
        """Replace the entries of a section by models, or the section itself if it has no entries."""
        value, kinds = self.values[name], get_args(annotation)
        if not kinds:
            self._entry(self.values, (name,), _adapter(name))
        elif isinstance(value, get_origin(annotation) if name != "routes" else list):
            for key in range(len(value)) if isinstance(value, list) else list(value):
                self._entry(value, (name, key), _adapter(name))
        else:
            self._remove(self.values, (name,))

    def _entry(self, parent: Any, path: ConfigPath, adapter: TypeAdapter[Any]) -> None:
        """Replace an entry by its model. An entry that cannot be repaired is removed."""
        key = path[-1]
        for _ in range(_ROUNDS):
            try:
                parent[key] = adapter.validate_python(parent[key], by_alias=True, by_name=False)
                return
            except ValidationError as error:
                for at, is_missing in paths(error, self.root, path):
                    self._replace(at, is_missing)
            if isinstance(parent, dict) and key not in parent:
                return
        self._remove(parent, path)

    def _replace(self, path: ConfigPath, is_missing: bool = False) -> None:
        """Make one step towards a valid value at a path, or at the nearest parent that is written.

        A part is removed first. If it is required, a placeholder takes its place. If that is invalid too, the parent
        is replaced. An entry whose keys do not fit together keeps those that checks need, and then is removed.
        """
        parent: Any = self.values
        at = path[:1]
        for part in path[1:]:
            inner = parent.get(at[-1]) if isinstance(parent, dict) else parent[at[-1]]
            if not (isinstance(inner, dict) or (isinstance(inner, list) and part in range(len(inner)))):
                break
            at, parent = (*at, part), inner
        key = at[-1]
        value = parent.get(key) if isinstance(parent, dict) else parent[key]
        is_first = at not in self.tried
        self.tried.add(at)
        if at[0] == "routes" and len(at) == 2:
            parent[key] = self._route(value, at)
        elif isinstance(parent, dict) and key not in parent:
            if is_missing and at == path:  # otherwise another problem has removed it
                self._put(parent, at)
        elif isinstance(value, dict) and is_first:
            kept = {name: value[name] for name in _KEPT if name in value}
            if "saga" in kept:
                kept.pop("orchestration", None)  # a route starts one of the two
            self.replaced |= {(*at, name) for name in value if name not in kept}
            parent[key] = kept | (_COMPLETED.get(str(value.get("type")), {}) if at[0] == "brokers" else {})
        elif at in self.replaced:
            self._replace(at[:-1])
        elif len(at) > 2 and (isinstance(parent, list) or key in _REQUIRED):
            self._put(parent, at)
        else:
            self._remove(parent, at)

    def _put(self, parent: Any, path: ConfigPath) -> None:
        """Put a placeholder at a path."""
        self.replaced.add(path)
        key = next(part for part in reversed(path) if isinstance(part, str))
        if path[0] == "routes" and path[2:] == ("name",):
            parent["name"] = f"route-{path[1]}"
        elif path[0] == "sagas" and isinstance(path[-1], int):
            parent[path[-1]] = {"steps": []}
        else:
            parent[path[-1]] = _PLACEHOLDERS.get(key, "none")

    def _remove(self, parent: Any, path: ConfigPath) -> None:
        self.replaced.add(path)
        del parent[path[-1]]

    def _route(self, route: Any, path: ConfigPath) -> dict[str, Any]:
        """Route with one command: the first one of several, and `ignore` in place of none."""
        if not isinstance(route, dict):
            self.replaced.add(path)
            return {"name": f"route-{path[1]}", "from": _PLACEHOLDERS["from"], "ignore": {}}
        commands = [command for command in COMMANDS if route.get(command) is not None]
        dropped = commands[1:] if commands else ["ignore"]
        self.replaced |= {(*path, command) for command in dropped}
        kept = {key: value for key, value in route.items() if key not in dropped}
        return kept if commands else kept | {"ignore": {}}
