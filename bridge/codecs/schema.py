"""JSON Schema: what a payload has to look like."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs
import orjson

from bridge.config.files import bounded
from bridge.errors import SchemaError

_LIMIT = 1024
_SHOWN = 3
_PATH_LIMIT = 120
_TEXT_LIMIT = 200
_BACKTRACK_LIMIT = 100_000
_MASK = "the value"


class SchemaProblem(Exception):
    """The schema itself cannot be used. Its text is for the person who wrote the configuration."""


class Schema:
    """A compiled JSON Schema. Immutable; safe to share."""

    def __init__(self, path: Path) -> None:
        """Compile the schema in `path` (draft 2020-12 unless its `$schema` says otherwise).

        `$ref` may point into the file and to other local files, relative to it; nothing is ever fetched.

        Raises: SchemaProblem, with a text that says what is wrong.
        """
        self.path = path
        schema = _load(path)
        if not isinstance(schema, dict | bool):
            raise SchemaProblem(f"{path} holds no JSON Schema: it must be an object, true or false")
        refused: list[str] = []

        def retrieve(uri: str) -> Any:
            try:
                return _retrieve(uri)
            except SchemaProblem as problem:
                refused.append(str(problem))
                raise

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
            where = "".join(f"/{part}" for part in error.instance_path)
            raise SchemaProblem(
                f"{path} is not a valid JSON Schema: {f'at {where}: ' if where else ''}{error.message}"
            ) from None
        except (jsonschema_rs.ReferencingError, ValueError) as error:
            raise SchemaProblem(f"{path} is not a valid JSON Schema: {refused[0] if refused else error}") from None

    def validate(self, data: Any) -> None:
        """Raises: SchemaError naming up to three places and what is wrong there, never a value. At most 1 KB."""
        try:
            if self._validator.is_valid(data):
                return
            errors = self._validator.iter_errors(data)
            told = [_tell(error) for error in islice(errors, _SHOWN)]
            more = next(iter(errors), None) is not None
        except jsonschema_rs.ValidationError as error:
            raise SchemaError(f"the payload breaks {self.path.name}: {_tell(error)}") from None
        except ValueError:
            raise SchemaError(
                f"the payload is {type(data).__name__} or holds some, and {self.path.name} can check JSON values only"
            ) from None
        text = f"the payload breaks {self.path.name}: {'; '.join(told)}{'; and more' if more else ''}"
        raise SchemaError(text.encode()[:_LIMIT].decode(errors="ignore"))


def schema_problem(path: Path) -> str | None:
    """What is wrong with the schema in `path`, None when nothing is. For checking a configuration."""
    try:
        Schema(path)
    except SchemaProblem as problem:
        return str(problem)
    return None


def _load(path: Path) -> Any:
    try:
        return orjson.loads(bounded(path))
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


def _tell(error: jsonschema_rs.ValidationError) -> str:
    path = "payload" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path)
    if len(path) > _PATH_LIMIT:
        path = path[: _PATH_LIMIT - 1] + "…"
    kind = error.kind
    # These quote names that the sender chose
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
