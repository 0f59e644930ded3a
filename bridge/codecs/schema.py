"""Validation of payloads against a JSON Schema."""

from __future__ import annotations

import difflib
import json
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs
import orjson

from bridge.codecs.limits import DEFAULT_LIMITS
from bridge.config.schema_files import MAX_SCHEMA
from bridge.core.errors import SchemaCost, SchemaError
from bridge.system.files import read_file

_LIMIT = 1024
_SHOWN = 3
_PATH_LIMIT = 120
_TEXT_LIMIT = 200
_BACKTRACK_LIMIT = 100_000
_NAMED_FAULTS = 500
"""Most values of a payload whose faults are named. The library gathers all faults, in all branches of the schema."""

_SHALLOW = 4
"""Levels of a payload up to which its faults are named where a schema refers to definitions."""

_MASK = "the value"


class SchemaProblem(Exception):
    """The schema itself cannot be used. The text is for the author of the configuration."""


class JsonSchema:
    """A compiled JSON Schema. Immutable; safe to share."""

    def __init__(self, path: Path, cost: float = DEFAULT_LIMITS.schema_cost) -> None:
        """Compile the schema in `path` (draft 2020-12 unless its `$schema` says otherwise).

        `$ref` may point into the file and to other local files, relative to it; nothing is ever fetched.
        cost: limit of the estimated seconds that patterns with lookaround or backreferences may take for one payload:
        a nanosecond for each step, and as many steps for a text as the square of its length.
        Raises: SchemaProblem, whose text names the fault.
        """
        self.path = path
        self._steps = cost * 1e9
        schema = _load(path)
        self._names = set(_keys(schema))
        self._has_lookaround = _has_lookaround(schema)
        if not isinstance(schema, dict | bool):
            raise SchemaProblem(f"{path} holds no JSON Schema: it must be an object, true or false")
        refused: list[str] = []

        def retrieve(uri: str) -> Any:
            try:
                found = _retrieve(uri)
            except SchemaProblem as problem:
                refused.append(str(problem))
                raise
            self._names |= set(_keys(found))
            self._has_lookaround |= _has_lookaround(found)
            return found

        try:
            self._validator = jsonschema_rs.validator_for(
                schema,
                base_uri=path.absolute().as_uri(),
                retriever=retrieve,
                mask=_MASK,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACK_LIMIT),
            )
        except jsonschema_rs.ValidationError as error:
            if refused:
                raise SchemaProblem(f"{path}: {refused[0]}") from None
            raise SchemaProblem(f"{path} is not a valid JSON Schema: {_fault(schema, error)}") from None
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise SchemaProblem(f"{path} is not a valid JSON Schema: {refused[0] if refused else error}") from None

    def validate(self, data: Any) -> None:
        """Check a payload.

        Raises: SchemaError, which names up to three places with their faults and nothing that the sender chose;
        SchemaCost.

        The text of a SchemaError has at most 1 KB. It names no place in a payload with many values, nor where a schema
        may examine the payload in many ways.
        """
        if self._has_lookaround and _steps(data) > self._steps:
            raise SchemaCost(
                f"the payload holds texts that may cost the patterns of {self.path.name} more than limits.schema_cost "
                "allows"
            )
        try:
            if self._validator.is_valid(data):
                return
            if not _is_known(data, self._names):
                raise SchemaError(f"the payload breaks {self.path.name}, and is too large to say where")
            errors = self._validator.iter_errors(data)
            problems = [_describe(error, self._names) for error in islice(errors, _SHOWN)]
            more = next(iter(errors), None) is not None
        except jsonschema_rs.ValidationError as error:
            raise SchemaError(f"the payload breaks {self.path.name}: {_describe(error, self._names)}") from None
        except ValueError:
            raise SchemaError(
                f"the payload is {type(data).__name__} or holds some, and {self.path.name} can check JSON values only"
            ) from None
        text = f"the payload breaks {self.path.name}: {'; '.join(problems)}{'; and more' if more else ''}"
        raise SchemaError(text.encode()[:_LIMIT].decode(errors="ignore"))


_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")


def fault_of(schema: Any) -> str | None:
    """Place and word for which JSON Schema does not accept a schema; references are not followed."""
    try:
        jsonschema_rs.meta.validate(schema)
    except jsonschema_rs.ValidationError as error:
        return _fault(schema, error)
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        return str(error)
    return None


def _fault(schema: Any, error: jsonschema_rs.ValidationError) -> str:
    where = "".join(f"/{part}" for part in error.instance_path)
    return f"{f'at {where}: ' if where else ''}{_wrong_word(schema, list(error.instance_path), error.message)}"


def _wrong_word(schema: Any, path: list[Any], message: str) -> str:
    """Text about the word at a path of an invalid schema, from the validator's masked one.

    A schema is part of the configuration, and its words may be shown.
    """
    for part in path:
        schema = schema[part]
    if path[-1:] == ["type"] or (path[-2:-1] == ["type"] and isinstance(path[-1], int)):
        words = schema if isinstance(schema, list) else [schema]
        wrong = next((word for word in words if word not in _TYPES), schema)
        near = difflib.get_close_matches(str(wrong).lower(), _TYPES, n=1, cutoff=0.5)
        remedy = f'did you mean "{near[0]}"?' if near else f"write one of {', '.join(_TYPES)}"
        return f"{json.dumps(wrong)[:80]} is not a type; {remedy}"
    return message if isinstance(schema, dict | list) else message.replace(_MASK, json.dumps(schema)[:80])


def _load(path: Path) -> Any:
    try:
        return orjson.loads(read_file(path, MAX_SCHEMA))
    except OSError as error:
        raise SchemaProblem(f"cannot read the schema {path}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise SchemaProblem(
            f"{path} is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None


def _retrieve(uri: str) -> Any:
    parts = urlsplit(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise SchemaProblem(f"it refers to {uri}, and only local files are read; copy it beside the schema")
    return _load(Path(unquote(parts.path)))


def _keys(schema: Any) -> Iterator[str]:
    """Every key of a schema, including property names."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _is_known(data: Any, names: Container[str]) -> bool:
    """Return whether naming the payload's faults costs little. Where definitions may refer to themselves, the cost
    doubles with each level.
    """
    deepest = _SHALLOW if "$ref" in names or "$dynamicRef" in names or "$recursiveRef" in names else _NAMED_FAULTS
    left, level = _NAMED_FAULTS, [data]
    for _ in range(deepest):
        level = [
            member
            for part in level
            if isinstance(part, dict | list)
            for member in (part.values() if isinstance(part, dict) else part)
        ]
        left -= len(level)
        if not level or left < 0:
            break
    return not level and left >= 0


def _steps(data: Any) -> int:
    """Steps that a pattern with lookaround may take over all texts, keys included."""
    cost, waiting = 0, [data]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            cost += len(part) * len(part)
        elif isinstance(part, dict):
            waiting += part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return cost


def _has_lookaround(schema: Any) -> bool:
    """Return whether a pattern of the schema needs more than one pass over a text."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            found = part.get("pattern"), *(part.get("patternProperties") or ())
            if any(isinstance(text, str) and not _is_linear(text) for text in found):
                return True
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return False


def _is_linear(pattern: str) -> bool:
    try:
        jsonschema_rs.validator_for({"pattern": pattern}, pattern_options=jsonschema_rs.RegexOptions())
    except jsonschema_rs.ValidationError:
        return False
    return True


def _describe(error: jsonschema_rs.ValidationError, names: Container[str]) -> str:
    """Place and fault of an error. A property that the schema does not name appears as `*`, since the sender chose its
    name.
    """
    path = "payload" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part if part in names else '*'}" for part in error.instance_path
    )
    if len(path) > _PATH_LIMIT:
        path = path[: _PATH_LIMIT - 1] + "…"
    kind = error.kind
    # These messages quote names that the sender chose
    if isinstance(
        kind,
        jsonschema_rs.ValidationErrorKind.AdditionalProperties
        | jsonschema_rs.ValidationErrorKind.UnevaluatedProperties,
    ):
        text = f"has {len(kind.unexpected)} properties that the schema does not allow"
    elif isinstance(kind, jsonschema_rs.ValidationErrorKind.PropertyNames):
        text = "has a property whose name the schema does not allow"
    else:
        text = error.message.removeprefix(_MASK).strip()
    return f"{path} {text if len(text) <= _TEXT_LIMIT else text[: _TEXT_LIMIT - 1] + '…'}"
