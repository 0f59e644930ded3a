"""Description of the API as an OpenAPI 3.1 document, made from the table of operations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, get_origin

from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from bridge import __version__
from bridge.app.operations.operation import Operation
from bridge.app.operations.summaries import SUMMARIES
from bridge.ops.api import EVENTS, KEY, KEY_HEADER, PREFIX, PROBLEM

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/components/schemas/{model}"
_NAMES = re.compile(r"\{([a-z_]+)\}")
_ERRORS: Mapping[int, str] = {
    400: "The request cannot be read, or its body is not a JSON object.",
    401: "The request has no valid token.",
    403: "The caller's role, or its right to payloads, does not allow it.",
    404: "Nothing has this name.",
    408: "The body did not arrive in time.",
    409: "The state of the thing does not allow it.",
    413: "The body is too large.",
    415: "The body is not `application/json`.",
    422: "A parameter is not valid.",
    429: "The caller asks too often; `Retry-After` has the seconds to wait.",
    500: "A fault of the bridge; its log has more.",
    503: "An engine, a broker, or the identity provider does not answer.",
    504: "An engine did not answer in time; the outcome is unknown.",
}
_ALWAYS = (400, 401, 403, 404, 409, 422, 429, 500, 503, 504)
_WITH_BODY = (408, 413, 415)


def document(operations: Iterable[Operation[Any]], status: Any = dict[str, Any]) -> dict[str, Any]:
    """OpenAPI 3.1 document of the operations. status: type of the answer of `GET status`."""
    table = list(operations)
    parameters = {one.parameters for one in table}
    _, definitions = models_json_schema([(each, "validation") for each in parameters], ref_template=_REF)
    schemas: dict[str, Any] = dict(definitions.get("$defs", {}))
    schemas["ProblemDetails"] = _PROBLEM_SCHEMA
    paths: dict[str, dict[str, Any]] = {}
    for one in table:
        shown = paths.setdefault(PREFIX + one.path, {})
        shown[one.method.lower()] = _operation(one, schemas)
    paths[PREFIX + "status"] = {
        "get": {
            "operationId": "status",
            "summary": "Show health, lag, failures, and what waits for a person.",
            "tags": ["status"],
            "x-role": "reader",
            "parameters": [
                {
                    "name": "daemons",
                    "in": "query",
                    "required": False,
                    "description": "`all` also asks the other daemons on the machine, and names those it cannot ask.",
                    "schema": {"type": "string", "enum": ["this", "all"], "default": "this"},
                }
            ],
            "responses": _responses(_schema(status, schemas), _ALWAYS),
        }
    }
    paths |= {PREFIX + path: {"get": _stream(path, *each)} for path, each in _STREAMS.items()}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": DIALECT,
        "info": {
            "title": "durable-bridge",
            "version": __version__,
            "summary": "Operations on a running bridge.",
            "description": "Times are RFC 3339 in UTC. The roles reader, operator and admin each have the rights of "
            "those before it. Payloads need a right of their own; without it they are null. Repeat a POST with the "
            f"same `{KEY_HEADER}` to get one effect. HEAD answers as GET, without a body.",
        },
        "security": [{"token": []}, {}],
        "paths": {path: paths[path] for path in sorted(paths)},
        "components": {
            "schemas": {name: schemas[name] for name in sorted(schemas)},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Token of `bridge tokens new`, or of the OpenID Connect provider.",
                }
            },
        },
    }


_PROBLEM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "description": "Problem details, RFC 9457.",
    "required": ["type", "title", "status", "detail", "reason"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "The bridge's word for the cause."},
    },
}


_STREAMS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "tap": (
        "Stream settled messages with the decisions about them.",
        {"options": "JSON object: `sources`, `routes`, `outcomes`, `where`, `rate`, `payload`."},
    ),
    "live": (
        "Stream the status of this daemon and its changes: events `state`, `change`, `beat` and `tap`.",
        {
            "tap": "JSON object, as `options` of `GET tap`: also stream settled messages, as events `tap`.",
            "last_event_id": "Id of the last event received, as the header `Last-Event-ID`.",
        },
    ),
}
"""Summary and query of each stream, by its path."""


def _stream(path: str, summary: str, query: Mapping[str, str]) -> dict[str, Any]:
    responses = _responses({"type": "string"}, _ALWAYS)
    responses["200"]["content"] = {EVENTS: {"schema": {"type": "string"}}}
    return {
        "operationId": path,
        "summary": summary,
        "tags": ["streams"],
        "x-role": "reader",
        "parameters": [
            {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
            for name, text in query.items()
        ],
        "responses": responses,
    }


def _operation(one: Operation[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    names = _NAMES.findall(one.path)
    model = schemas[one.parameters.__name__]
    properties: Mapping[str, Any] = model.get("properties", {})
    required = set(model.get("required", ()))
    given: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _path_schema(properties[name])} for name in names
    ]
    shown: dict[str, Any] = {
        "operationId": one.name,
        "summary": SUMMARIES[one.name],
        "tags": [one.name.partition(".")[0]],
        "x-role": one.role,
        "x-payloads": sorted(one.payloads),
    }
    errors: tuple[int, ...] = _ALWAYS
    rest = {name: each for name, each in properties.items() if name not in names}
    if one.method == "GET":
        given += [
            {"name": name, "in": "query", "required": name in required, **_query(each)} for name, each in rest.items()
        ]
    else:
        errors += _WITH_BODY
        given.append(
            {
                "name": KEY_HEADER,
                "in": "header",
                "required": False,
                "description": "Key of the request: a repetition with the same key has no second effect.",
                "schema": {"type": "string", "pattern": f"^{KEY.pattern}$"},
            }
        )
        body = {"type": "object", "properties": rest, "additionalProperties": False}
        if needed := sorted(required - set(names)):
            body["required"] = needed
        shown["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if given:
        shown["parameters"] = given
    result = _schema(one.result, schemas)
    shown["responses"] = _responses(result, sorted(errors))
    if one.submits:
        shown["responses"] |= {"202": _accepted(result)}
        if get_origin(one.result) is None:
            del shown["responses"]["200"]
        else:
            shown["responses"]["200"]["description"] = "The result; no job was submitted."
    return shown


def _accepted(result: Any) -> dict[str, Any]:
    """Answer with jobs that have begun."""
    return {
        "description": "The jobs, which go on after the answer.",
        "headers": {
            "Location": {
                "required": True,
                "description": "Path of the job, or of all jobs when several were submitted. Ask for it until the "
                "member `state` is `done`, `stopped` or `aborted`; `counts` has the results so far.",
                "schema": {"type": "string", "format": "uri-reference"},
            }
        },
        "content": {"application/json": {"schema": result}},
    }


def _path_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "string", "minLength": 1, **{name: each for name, each in schema.items() if name == "pattern"}}


def _query(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Form of a parameter in a query: lists are separated by commas, objects are JSON text."""
    kinds = [each for each in schema.get("anyOf", [schema]) if each.get("type") != "null"]
    plain = dict(kinds[0]) if len(kinds) == 1 else dict(schema)
    described = {"description": schema["description"]} if "description" in schema else {}
    if plain.get("type") == "object" or "additionalProperties" in plain:
        return {**described, "content": {"application/json": {"schema": plain}}}
    if plain.get("type") == "array":
        return {**described, "style": "form", "explode": False, "schema": plain}
    return {**described, "schema": plain}


def _schema(kind: Any, schemas: dict[str, Any]) -> Any:
    if kind is Any:
        return {}
    found = TypeAdapter(kind).json_schema(ref_template=_REF, mode="serialization")
    schemas.update(found.pop("$defs", {}))
    return found


def _responses(schema: Any, errors: Iterable[int]) -> dict[str, Any]:
    found: dict[str, Any] = {"200": {"description": "The result.", "content": {"application/json": {"schema": schema}}}}
    for status in errors:
        found[str(status)] = {
            "description": _ERRORS[status],
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}},
        }
    return found
