"""AsyncAPI 3.1 document of a configuration: the messages that it consumes and publishes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from bridge.app.composition import subscribe_options
from bridge.app.graph.flow import publications, saga_commands
from bridge.app.lifecycle.data import schema
from bridge.brokers.factory import operation_bindings, server_of
from bridge.config.model.brokers import TargetConfig
from bridge.config.model.codecs import TargetCodec, content_type
from bridge.config.model.routes import RouteConfig
from bridge.config.model.sources import SourceConfig
from bridge.config.schema_files import MAX_SCHEMA
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError
from bridge.core.lifecycle import EventKind
from bridge.engines.workflows import Workflows
from bridge.system.files import read_file

VERSION = "3.1.0"
"""Version of AsyncAPI."""

AsyncApiDocument = dict[str, Any]

_DRAFT_7 = "http://json-schema.org/draft-07/schema"
_UNTOUCHED = ("const", "default", "enum", "example", "examples")
"""Members of JSON Schemas that hold values, not schemas."""


def document(loaded: Loaded, title: str, version: str, workflows: Workflows | None = None) -> AsyncApiDocument:
    """AsyncAPI document of a configuration, without secrets.

    workflows: registered functions, whose annotations describe messages without JSON Schema; None: not used.
    Raises: BridgeError for a schema file that cannot be read.
    """
    return _Builder(loaded, title, version, workflows).document()


class _Builder:
    def __init__(self, loaded: Loaded, title: str, version: str, workflows: Workflows | None) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._info = {"title": title, "version": version, "x-durable-bridge-config": loaded.version}
        self._workflows = workflows
        self._channels: dict[str, AsyncApiDocument] = {}
        self._operations: dict[str, AsyncApiDocument] = {}
        self._messages: dict[str, AsyncApiDocument] = {}
        self._schemas: dict[str, AsyncApiDocument] = {}
        self._keys: dict[str, str] = {}

    def document(self) -> AsyncApiDocument:
        for name, source in self._config.sources.items():
            self._source(name, source)
        published = self._published()
        events = self._config.events
        if events is not None and events.target in self._config.targets:
            published.setdefault(events.target, {}).update({kind.type: None for kind in events.kinds})
        for name, target in self._config.targets.items():
            self._target(name, target, published.get(name, {}))
        components = {"messages": self._messages, "schemas": self._schemas}
        return {
            "asyncapi": VERSION,
            "info": self._info,
            "servers": {self._key(name): server_of(broker) for name, broker in self._config.brokers.items()},
            "channels": self._channels,
            "operations": self._operations,
            "components": {name: each for name, each in components.items() if each},
        }

    def _source(self, name: str, source: SourceConfig) -> None:
        routes = [route for route in self._config.routes if name in route.from_]
        messages = dict(self._consumed(name, source, routes))
        channels = [self._channel(source.broker, origin, messages) for origin in source.origins or (None,)]
        bindings = operation_bindings(self._config.brokers[source.broker], source)
        dead_letters = subscribe_options(self._loaded, name).dead_letter or "{topic}/$DeadLetterQueue"
        for number, channel in enumerate(channels):
            suffix = f".{number + 1}" if len(channels) > 1 else ""
            self._operations[f"consume.{self._key(name)}{suffix}"] = {
                "action": "receive",
                "channel": _reference("channels", channel),
                "summary": f"Source {name}",
                "messages": [_reference("channels", channel, "messages", each) for each in messages],
                **({"bindings": bindings} if bindings else {}),
            }
        for number, origin in enumerate(source.origins):
            suffix = f".{number + 1}" if len(source.origins) > 1 else ""
            self._messages.setdefault("dead-letter", _DEAD_LETTER)
            address = dead_letters.replace("{topic}", origin)
            channel = self._channel(source.broker, address, {"dead-letter": "dead-letter"})
            self._operations[f"dead-letters.{self._key(name)}{suffix}"] = {
                "action": "send",
                "channel": _reference("channels", channel),
                "summary": f"Dead letters of source {name}",
                "messages": [_reference("channels", channel, "messages", "dead-letter")],
            }

    def _target(self, name: str, target: TargetConfig, types: Mapping[str, None]) -> None:
        messages = {}
        for type_ in types or {"": None}:
            key = self._key(f"{name}.{type_ or 'message'}")
            payload = self._event_schema(type_) or self._target_schema(name, target)
            self._messages[key] = _message(type_ or f"message to {name}", target.codec, payload, type_)
            messages[self._key(type_ or "message")] = key
        # The path of a webhook may be secret
        channel = self._channel(target.broker, target.address or "/", messages)
        self._operations[f"publish.{self._key(name)}"] = {
            "action": "send",
            "channel": _reference("channels", channel),
            "summary": f"Target {name}",
            "messages": [_reference("channels", channel, "messages", each) for each in messages],
        }

    def _channel(self, broker: str, address: str | None, messages: Mapping[str, str]) -> str:
        """Key of a channel, which several sources and targets may share. messages: components by name."""
        key = self._key(f"{broker}.{address or 'pattern'}")
        channel = self._channels.setdefault(
            key, {"address": address, "servers": [_reference("servers", self._key(broker))], "messages": {}}
        )
        for name, component in messages.items():
            channel["messages"][name] = _reference("components", "messages", component)
        return key

    # -- messages

    def _consumed(self, name: str, source: SourceConfig, routes: Iterable[RouteConfig]) -> Iterable[tuple[str, str]]:
        """Messages of a source by the types that rules match: name in the channel, and component."""
        found: dict[str, list[RouteConfig]] = {}
        for route in routes:
            wanted = route.match.get("type")
            for each in wanted if isinstance(wanted, tuple) else [wanted]:
                found.setdefault("" if each is None else str(each), []).append(route)
        for type_, matching in (found or {"": []}).items():
            key = self._key(f"{name}.{type_ or 'message'}")
            payload = self._consumed_schema(name, source, matching)
            message = _message(type_ or f"message of {name}", source.codec, payload, type_)
            if matching:
                message["description"] = f"Rules: {', '.join(dict.fromkeys(route.name for route in matching))}."
            self._messages[key] = message
            yield self._key(type_ or "message"), key

    def _consumed_schema(
        self, name: str, source: SourceConfig, routes: Iterable[RouteConfig]
    ) -> AsyncApiDocument | None:
        for route in routes:
            if route.schema_file is not None:
                position = self._config.routes.index(route)
                return self._file(("routes", position, "schema"), route.schema_file, f"route.{route.name}")
        if source.schema_file is not None:
            return self._file(("sources", name, "schema"), source.schema_file, f"source.{name}")
        return next((found for route in routes if (found := self._type(route)) is not None), None)

    def _target_schema(self, name: str, target: TargetConfig) -> AsyncApiDocument | None:
        if target.schemas is None or target.schemas.file is None or target.codec != "avro":
            return None
        key = self._key(f"target.{name}")
        schema = self._read(("targets", name, "schemas", "file"), target.schemas.file)
        self._schemas[key] = {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": schema}
        return _reference("components", "schemas", key)

    def _event_schema(self, type_: str) -> AsyncApiDocument | None:
        """Schema of the data of a lifecycle event; None for the type of another message."""
        kind = next((each for each in EventKind if each.type == type_), None)
        return None if kind is None else self._schema(f"events.{kind}", schema(kind))

    def _file(self, path: tuple[str | int, ...], file: str, name: str) -> AsyncApiDocument:
        schema = self._read(path, file)
        return self._schema(name, schema) if isinstance(schema, dict) else {}

    def _read(self, path: tuple[str | int, ...], file: str) -> Any:
        place = self._loaded.resolve(path, file)
        try:
            return json.loads(read_file(place, MAX_SCHEMA))
        except (OSError, ValueError, RecursionError) as error:
            raise BridgeError(f"cannot read the schema {place}: {type(error).__name__}") from error

    def _type(self, route: RouteConfig) -> AsyncApiDocument | None:
        """Schema of the annotated input of the orchestration that a rule starts with the whole payload."""
        command = route.schedule or route.start_or_raise
        if self._workflows is None or command is None or command.input != "payload" or route.for_each is not None:
            return None
        function = self._workflows.orchestrators.get(command.orchestration or "")
        if function is None:
            return None
        try:
            names = list(signature(function).parameters)
            annotation = get_type_hints(function).get(names[1])
            schema = None if annotation in (None, Any) else TypeAdapter(annotation).json_schema()
        except (TypeError, NameError, IndexError, ValueError, PydanticUserError):
            return None  # an annotation without a JSON Schema
        return None if schema is None else self._schema(f"input.{command.orchestration}", schema)

    def _schema(self, name: str, schema: AsyncApiDocument) -> AsyncApiDocument:
        """Add a JSON Schema to the components; return its reference. Its own references point there, too."""
        key = self._key(name)
        dialect = str(schema.get("$schema", "")).rstrip("#")
        draft = "draft-07" if dialect == _DRAFT_7 else "2020-12"
        inside = _moved(schema, f"#/components/schemas/{key}/schema")
        self._schemas[key] = {"schemaFormat": f"application/schema+json;version={draft}", "schema": inside}
        return _reference("components", "schemas", key)

    def _key(self, text: str) -> str:
        """Text as a key of components, channels and operations. Different texts have different keys."""
        if text not in self._keys:
            key = plain = re.sub(r"[^A-Za-z0-9._-]", "-", text)
            number = 1
            while key in self._keys.values():
                number += 1
                key = f"{plain}-{number}"
            self._keys[text] = key
        return self._keys[text]

    def _published(self) -> dict[str, dict[str, None]]:
        """Constant types of published messages, by target."""
        found: dict[str, dict[str, None]] = {}
        for several in publications(self._loaded).values():
            for each in several:
                types = found.setdefault(each.target, {})
                if each.type is not None:
                    types[each.type] = None
        for name, saga in self._config.sagas.items():
            for command in saga_commands(saga):
                types = found.setdefault(command.target, {})
                if "{{" not in command.type:
                    types[command.type] = None
            if saga.publish_outcome is not None:
                outcomes = ("completed", "compensated", "compensation_failed")
                found.setdefault(saga.publish_outcome, {}).update({f"{name}.{each}": None for each in outcomes})
        return found


def _message(title: str, codec: TargetCodec, payload: AsyncApiDocument | None, type_: str) -> AsyncApiDocument:
    """Message object. payload: schema of the data; a CloudEvent has it as `data`."""
    message: AsyncApiDocument = {"name": title, "title": title, "contentType": content_type(codec)}
    if codec != "cloudevents":
        return message if payload is None else message | {"payload": payload}
    properties: AsyncApiDocument = {
        "specversion": {"const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1},
        "type": {"type": "string", **({"const": type_} if type_ else {})},
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
    }
    if payload is not None:
        properties["data"] = payload
    required = ["specversion", "id", "source", "type"]
    return message | {"payload": {"type": "object", "required": required, "properties": properties}}


_DEAD_LETTER: AsyncApiDocument = {
    "name": "dead-letter",
    "title": "dead letter",
    "description": "Copy of a message that the bridge could not execute, with its cause in headers.",
    "headers": {
        "type": "object",
        "properties": {
            name: {"type": "string"}
            for name in ("bridge.reason", "bridge.detail", "bridge.route", "bridge.source", "bridge.message-id")
        },
    },
}


def _moved(value: Any, place: str) -> Any:
    """Schema with references into itself changed to references below `place`. Identities are removed: they would
    change the meaning of these references."""
    if isinstance(value, list):
        return [_moved(each, place) for each in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for name, each in value.items():
        if name in ("$id", "$schema") and isinstance(each, str):
            continue
        if name == "$ref" and isinstance(each, str) and each.startswith("#"):
            found[name] = f"{place}{each[1:]}"
        else:
            found[name] = each if name in _UNTOUCHED else _moved(each, place)
    return found


def _reference(*parts: str) -> AsyncApiDocument:
    return {"$ref": f"#/{'/'.join(parts)}"}
