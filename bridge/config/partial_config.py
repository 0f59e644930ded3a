"""Configuration without its invalid parts, which lets the valid rest be examined in the same run."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import COMMANDS
from bridge.config.translation import paths
from bridge.config.yaml.node import MappingNode, Path, plain

_ROUNDS = 10
"""Maximum number of rounds.

Removal of one part may expose another: without its instance id a command is removed, and the route then has no
command.
"""

_NOWHERE = "no.such.source"
_SECTIONS: dict[str, Any] = {"engines": {"default": {"type": "embedded"}}, "brokers": {"none": {"type": "local"}}}
_SOURCE: dict[str, Any] = {"broker": "none", "topics": ["none"], "no_match": "dead_letter"}


def partial_config(root: MappingNode) -> BridgeConfig | None:
    """Build a configuration with defaults and placeholders in place of invalid parts; None if that is impossible.

    Routes keep their positions. An entry that is not a route becomes a route that no source leads to. The
    configuration is for inspection only and must never run.
    """
    values = plain(root)
    for _ in range(_ROUNDS):
        for section, entries in _SECTIONS.items():
            values[section] = values.get(section) or entries
        try:
            return BridgeConfig.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as error:
            for path in paths(error, root):
                _replace(values, path)
    return None


def _replace(values: dict[str, Any], path: Path) -> None:
    match path:
        case ("routes", int() as position):
            _repair(values["routes"], position)
        case ("routes", int() as position, "name", *_):
            values["routes"][position]["name"] = f"route-{position}"
        case ("routes", int() as position, "from", *_):
            values["routes"][position]["from"] = _NOWHERE
        case ("routes", int() as position, *rest):
            _take_out(values["routes"][position], tuple(rest))
        case ("sources", str() as name, ("broker" | "topics" | "no_match") as key, *_):
            if name in values["sources"]:
                values["sources"][name][key] = _SOURCE[key]
        case _:
            _take_out(values, path)


def _repair(routes: list[Any], position: int) -> None:
    route = routes[position]
    commands = [command for command in COMMANDS if route.get(command) is not None] if isinstance(route, dict) else []
    if isinstance(route, dict) and len(commands) != 1:
        for command in commands[1:]:
            del route[command]
        if not commands:
            route["ignore"] = {}
    else:
        routes[position] = {"name": f"route-{position}", "from": _NOWHERE, "ignore": {}}


def _take_out(parent: dict[str, Any], path: Path) -> bool:
    """Remove the invalid part at a path.

    Of a list, the whole list is removed; for a missing key, the mapping that lacks it.

    Returns False if nothing was removed.
    """
    key, *rest = path
    if key not in parent:
        return False
    inner = parent[str(key)]
    if not (rest and isinstance(inner, dict) and _take_out(inner, tuple(rest))):
        del parent[str(key)]
    return True
