"""Keys that each place in the configuration may hold, read from the models."""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from bridge.config.model.bridge import BridgeConfig
from bridge.core.errors import ConfigPath


def keys_at(path: ConfigPath, tag: str | None = None) -> list[str]:
    """Keys that the mapping at `path` may hold, as written in files.

    For a union, the keys of the member that `tag` selects.
    """
    models = [kind for kind in _kinds_at(path) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    tagged = [model for model in models if tag is not None and tag in tags(model)]
    return [key for model in tagged or models for key in fields(model)]


def is_secret(path: ConfigPath) -> bool:
    """True if the value at `path` must never be shown."""
    return SecretStr in _kinds_at(path)


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Annotations by key as written in files."""
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of `type` that select this model. Empty if the model is not a member of a union."""
    field = model.model_fields.get("type")
    return get_args(field.annotation) if field is not None and get_origin(field.annotation) is Literal else ()


def members(annotation: Any) -> Iterable[Any]:
    """Types that an annotation allows, with unions and metadata unwrapped."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from members(part)
    else:
        yield annotation


def _kinds_at(path: ConfigPath) -> list[Any]:
    kinds: list[Any] = [BridgeConfig]
    for part in path:
        kinds = [kind for parent in kinds for step in _steps(parent, part) for kind in members(step)]
    return kinds


def _steps(kind: Any, part: str | int) -> Iterable[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        found = fields(kind).get(str(part))
        if found is not None:
            yield found
    elif origin in (dict, Mapping) and isinstance(part, str):
        yield arguments[1]
    elif origin in (tuple, list) and isinstance(part, int):
        yield arguments[0]


def settings_named(key: str) -> list[str]:
    """Settings of the configuration with a key, shortest paths first: `ops.http.port`, `sources.NAME.group`."""
    found: dict[str, None] = {}

    def walk(kind: Any, path: str, seen: frozenset[Any]) -> None:
        for member in members(kind):
            if isinstance(member, type) and issubclass(member, BaseModel):
                for name, annotation in fields(member).items() if member not in seen else ():
                    here = f"{path}.{name}".lstrip(".")
                    if name == key:
                        found[here] = None
                    walk(annotation, here, seen | {member})
                continue
            for part, inner in (("NAME", f"{path}.NAME"), (0, f"{path}[N]")):
                for step in _steps(member, part):
                    walk(step, inner, seen)

    walk(BridgeConfig, "", frozenset())
    return sorted(found, key=lambda path: (path.count("."), path))


def models_in(value: Any, path: ConfigPath = ()) -> Iterator[tuple[ConfigPath, BaseModel]]:
    """Models of a configuration, each with its path in the words of the file."""
    if isinstance(value, BaseModel):
        yield path, value
        for name, field in type(value).model_fields.items():
            part = getattr(value, name)
            if isinstance(part, BaseModel | dict | tuple | list):
                yield from models_in(part, (*path, field.alias or name))
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from models_in(part, (*path, key))
    elif isinstance(value, tuple | list):
        for index, part in enumerate(value):
            yield from models_in(part, (*path, index))


def texts_in(config: BaseModel, language: Literal["cel", "cel-template"]) -> Iterator[tuple[ConfigPath, str]]:
    """Expressions or templates of a configuration, each with its path in the words of the file."""
    for path, model in models_in(config):
        for name, key in _texts_of(type(model), language):
            value = getattr(model, name)
            if isinstance(value, str):
                yield (*path, key), value
            elif isinstance(value, dict):
                yield from (((*path, key, part), text) for part, text in value.items() if isinstance(text, str))


@cache
def _texts_of(model: type[BaseModel], language: str) -> tuple[tuple[str, str], ...]:
    """Fields of a model with text of a language: attribute name and key."""
    return tuple(
        (name, field.alias or name)
        for name, field in model.model_fields.items()
        if _is_of(field, language) or _has_language(field.annotation, language)
    )


def _has_language(annotation: Any, language: str) -> bool:
    marks = getattr(annotation, "__metadata__", ())
    return any(_is_of(mark, language) for mark in marks) or any(
        _has_language(part, language) for part in get_args(annotation)
    )


def _is_of(mark: object, language: str) -> bool:
    extra = mark.json_schema_extra if isinstance(mark, FieldInfo) else None
    return isinstance(extra, dict) and extra.get("x-language") == language
