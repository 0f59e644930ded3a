"""JSON Schema (2020-12) of configuration files as users write them, for editors and for `bridge check --schema`.

One file need not be complete, because other files, `defaults:` and overlays add to it. Entries therefore require only
the keys that distinguish them.
"""

from __future__ import annotations

from typing import Any

from bridge.config.model.bridge import BridgeConfig
from bridge.config.model.routes import COMMANDS
from bridge.config.yaml.interpolation import SECTIONS
from bridge.config.yaml.merge import DEFAULTS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ID = "https://json.schemastore.org/durable-bridge.json"
"""Identity of the schema: its address in SchemaStore's catalogue, from which editors take schemas by file name."""
_REFERENCE = "#/$defs/"
_INTERPOLATED = {"type": "string", "pattern": r"\$\{", "description": "Text with `${VAR}` or `${file:NAME}` in it."}
_FILLED = ("SourceConfig", "TargetConfig")


def schema() -> dict[str, Any]:
    """JSON Schema of a configuration file, ready to be written as JSON."""
    whole = BridgeConfig.model_json_schema(by_alias=True, mode="validation")
    definitions: dict[str, Any] = whole.pop("$defs")
    properties: dict[str, Any] = whole.pop("properties")
    _name_entries([properties, definitions])
    for section in SECTIONS:
        for name in sorted(_reachable(properties[section], definitions)):
            _interpolate(definitions[name])
    _bare(definitions)
    defaults = {kind: _partial(properties[section], definitions) for kind, section in DEFAULTS.items()}
    for name in _FILLED:
        definitions[name].pop("required", None)
    route = definitions["RouteConfig"]
    route["required"] = ["name"]
    route["oneOf"] = [{"required": [command]} for command in COMMANDS]
    definitions["SourceConfig"]["properties"]["sessions"]["anyOf"].insert(0, {"type": "boolean"})
    for limits, per in (("LimitsConfig", "SourcePerConfig"), ("RouteLimitsConfig", "RoutePerConfig")):
        value = {name: it for name, it in definitions[per]["properties"]["value"].items() if name != "description"}
        definitions[limits]["properties"]["per"]["anyOf"].insert(0, value)
    modules = definitions["WorkflowsConfig"]["properties"]["modules"]
    properties["workflows"]["anyOf"] = [{"$ref": properties["workflows"].pop("$ref")}, modules]
    properties["engine"] = {
        **properties["engines"]["additionalProperties"],
        "description": "The engine, if there is only one: short for `engines: {default: {...}}`.",
    }
    properties["defaults"] = {
        "type": "object",
        "description": "Values of the keys that entries of a kind leave out.",
        "properties": defaults,
        "additionalProperties": False,
    }
    remove_titles(properties)
    remove_titles(definitions)
    return {
        "$schema": DIALECT,
        "$id": ID,
        "title": "durable-bridge configuration",
        "description": "A configuration file of durable-bridge.",
        "type": "object",
        "properties": properties,
        "not": {"required": ["engine", "engines"]},
        "additionalProperties": False,
        "$defs": definitions,
    }


def _name_entries(node: Any) -> None:
    """Describe the keys of mappings with `propertyNames`, which refuses other keys."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            named = part.get("patternProperties")
            if isinstance(named, dict) and len(named) == 1:
                del part["patternProperties"]
                [(pattern, entry)] = named.items()
                part |= {"propertyNames": {"pattern": pattern}, "additionalProperties": entry}
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _reachable(node: Any, definitions: dict[str, Any]) -> set[str]:
    found: set[str] = set()
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).removeprefix(_REFERENCE)
            if name and name not in found:
                found.add(name)
                waiting.append(definitions[name])
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return found


def _interpolate(definition: dict[str, Any]) -> None:
    """Allow `${VAR}` in place of a number, a boolean or an enumerated word."""
    for name, value in definition.get("properties", {}).items():
        if name == "type" or "$ref" in value or value.get("type") in ("array", "object"):
            continue
        kept = {key: value.pop(key) for key in ("default", "description") if key in value}
        branches = value.pop("anyOf", None) or [dict(value)]
        value.clear()
        value.update(kept, anyOf=[*branches, _INTERPOLATED])


def _bare(definitions: dict[str, Any]) -> None:
    """Allow a single name in place of a list in `from`."""
    names = definitions["RouteConfig"]["properties"]["from"]
    kept = {"description": names.pop("description")}
    branches = [dict(names["items"]), dict(names)]
    names.clear()
    names.update(kept, anyOf=branches)


def _partial(section: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Schema of a mapping with any keys of an entry of the section, none of them required."""
    entry = section.get("additionalProperties") or section["items"]
    properties: dict[str, Any] = {}
    for name in [str(part["$ref"]).removeprefix(_REFERENCE) for part in entry.get("oneOf", [entry])]:
        for key, value in definitions[name]["properties"].items():
            properties[key] = {} if key in COMMANDS or key == "type" else value
    return {"type": "object", "properties": properties, "additionalProperties": False}


def remove_titles(node: Any) -> None:
    """Remove titles, because they only repeat the keys."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if isinstance(part.get("title"), str):
                del part["title"]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
