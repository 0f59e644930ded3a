"""Merge of several files into one document: files of equal rank, overlays on top, defaults underneath. Pure."""

from __future__ import annotations

from bridge.config.model.routes import COMMANDS
from bridge.config.yaml.node import MappingNode, Node, ScalarNode, SequenceNode, plain
from bridge.core.errors import ConfigPath, Problem

NAMED = ("engines", "brokers", "registries", "targets", "sources", "sagas")
"""Sections of named entries. Each name belongs to one file."""

CONCATENATED: frozenset[ConfigPath] = frozenset(
    {("routes",), ("workflows", "modules"), ("workflows", "external"), ("check", "ignore")}
)
"""Lists that are concatenated over all files."""

DEFAULTS = {"source": "sources", "route": "routes", "target": "targets", "broker": "brokers", "engine": "engines"}
"""Sections by kind, for the kinds permitted under `defaults:`."""


def expand(document: MappingNode, problems: list[Problem]) -> MappingNode:
    """Expand the document's shorthands `engine: {...}` and `workflows: [...]`."""
    if "engine" in document:
        mark, engine = document.keys["engine"], document["engine"]
        engines = document.entries.get("engines")
        if engines is not None:
            what = "`engine` is short for `engines: {default: ...}`; keep one of them"
            problems.append(mark.problem(("engine",), what, "C008"))
        if not isinstance(engines, MappingNode):
            engines = MappingNode({}, {}, engine.mark)
        if "default" not in engines:
            engines = engines.with_entry("default", mark, engine)
        document = document.without("engine").with_entry("engines", document.keys.get("engines", mark), engines)
    workflows = document.entries.get("workflows")
    if isinstance(workflows, SequenceNode):
        mark = document.keys["workflows"]
        document = document.with_entry("workflows", mark, MappingNode({"modules": workflows}, {"modules": mark}, mark))
    return document


def join(first: MappingNode, second: MappingNode, problems: list[Problem], path: ConfigPath = ()) -> MappingNode:
    """Merge two files of equal rank.

    Mappings are merged and routes concatenated. A key in both files is a problem that names both places.
    """
    entries, keys = dict(first.entries), dict(first.keys)
    for key, mark, value in second.items():
        here = (*path, key)
        mine = entries.get(key)
        if mine is None:
            entries[key], keys[key] = value, mark
        elif isinstance(mine, MappingNode) and isinstance(value, MappingNode) and not (path and path[0] in NAMED):
            entries[key] = join(mine, value, problems, here)
        elif isinstance(mine, SequenceNode) and isinstance(value, SequenceNode) and here in CONCATENATED:
            entries[key] = SequenceNode(mine.items + value.items, mine.mark)
        elif mine is not value:
            what = f"is already set in {keys[key]}; keep one of the two"
            if mark.file != keys[key].file:
                what += f", or, if {mark.file} is an overlay, move it to another directory and name it with --overlay"
            problems.append(mark.problem(here, what, "C008"))
    return MappingNode(entries, keys, first.mark)


def overlay(base: MappingNode, top: MappingNode, problems: list[Problem]) -> MappingNode:
    """Merge an overlay into a document.

    `top` takes precedence: mappings are merged, other values replaced, and a route changes the route of the same
    name.
    """
    routes, changed = base.entries.get("routes"), top.entries.get("routes")
    result = _overlay(base, top.without("routes"), ())
    if changed is None:
        return result
    if not isinstance(changed, SequenceNode) or not isinstance(routes, SequenceNode | None):
        return result.with_entry("routes", top.keys["routes"], changed)
    items = list(routes.items) if routes else []
    places = {name: index for index, item in enumerate(items) if (name := _name(item)) is not None}
    for position, item in enumerate(changed.items):
        name = _name(item)
        if name is None or not isinstance(item, MappingNode):
            problems.append(
                item.mark.problem(("routes", position), "a route of an overlay needs the `name` it changes", "C008")
            )
        elif name not in places:
            known = ", ".join(places) or "none"
            mark = item["name"].mark
            what = f"there is no route `{name}`; an overlay changes routes and cannot add one (known: {known})"
            problems.append(mark.problem(("routes", position, "name"), what, "C008"))
        else:
            items[places[name]] = _over_route(items[places[name]], item)
    mark = base.keys["routes"] if routes else top.keys["routes"]
    return result.with_entry("routes", mark, SequenceNode(tuple(items), (routes or changed).mark))


def _name(route: Node) -> str | None:
    name = route.entries.get("name") if isinstance(route, MappingNode) else None
    return name.value if isinstance(name, ScalarNode) and isinstance(name.value, str) else None


def _over_route(base: Node, top: MappingNode) -> Node:
    if not isinstance(base, MappingNode):
        return top
    if any(command in top for command in COMMANDS):
        base = base.without(*(command for command in COMMANDS if command not in top))
    return _overlay(base, top, ("routes",))


def _overlay(base: MappingNode, top: MappingNode, path: ConfigPath) -> MappingNode:
    entries, keys = dict(base.entries), dict(base.keys)
    for key, mark, value in top.items():
        mine = entries.get(key)
        here = (*path, key)
        if isinstance(mine, MappingNode) and isinstance(value, MappingNode) and not _other_type(mine, value, here):
            entries[key] = _overlay(mine, value, here)
        else:
            entries[key], keys[key] = value, mark
    return MappingNode(entries, keys, base.mark)


def _other_type(mine: MappingNode, value: MappingNode, path: ConfigPath) -> bool:
    """True if an engine or broker has another type than the entry it replaces. The two then share no settings."""
    if len(path) != 2 or path[0] not in ("engines", "brokers") or "type" not in value:
        return False
    return "type" not in mine or plain(mine["type"]) != plain(value["type"])


def apply_defaults(document: MappingNode) -> MappingNode:
    """Merge each kind's defaults under every entry of the kind, and remove `defaults`."""
    defaults = document.entries.get("defaults")
    document = document.without("defaults")
    if not isinstance(defaults, MappingNode):
        return document
    for kind, section in DEFAULTS.items():
        under, entries = defaults.entries.get(kind), document.entries.get(section)
        if not isinstance(under, MappingNode):
            continue
        laid: Node
        if isinstance(entries, MappingNode):
            filled = {key: _under(value, under) for key, value in entries.entries.items()}
            laid = MappingNode(filled, entries.keys, entries.mark)
        elif isinstance(entries, SequenceNode):
            laid = SequenceNode(tuple(_under(item, under) for item in entries.items), entries.mark)
        else:
            continue
        document = document.with_entry(section, document.keys[section], laid)
    return document


def _under(entry: Node, defaults: MappingNode) -> Node:
    if not isinstance(entry, MappingNode):
        return entry
    # A default for a command's fields must not add the command to routes with another command
    fitting = defaults.without(*(command for command in COMMANDS if command not in entry))
    return _filled(entry, fitting)


def _filled(entry: MappingNode, defaults: MappingNode) -> MappingNode:
    """Entry completed with the defaults, at the place where the entry is written."""
    entries, keys = dict(defaults.entries), dict(defaults.keys)
    for key, mark, value in entry.items():
        under = entries.get(key)
        if isinstance(under, MappingNode) and isinstance(value, MappingNode):
            value = _filled(value, under)
        entries[key], keys[key] = value, mark
    return MappingNode(entries, keys, entry.mark)
