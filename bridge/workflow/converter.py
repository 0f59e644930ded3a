"""Conversion of Python values to and from JSON.

Extends the SDK's support of dataclasses to pydantic models and named tuples.
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

from durabletask.serialization import JsonDataConverter
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from bridge.core.origin import KEY, Wrapped, envelope_body, may_be_wrapped, wrap_payload
from bridge.workflow.messages import EnvelopeArgument


class Prepared:
    """A value whose JSON text already exists. Every converter can write it; the bridge's own writes it at no cost."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def to_json(self) -> Any:
        return json.loads(self.text)


class DataConverter(JsonDataConverter):
    """Data converter of the bridge's workers.

    Parameters of orchestrators, activities and entities may be annotated with a pydantic model or a named tuple, or
    with an Optional, list, dict or dataclass that contains one. Their payloads are converted to that type and
    validated. A payload that does not fit raises TypeError, and the activity or orchestration fails with the invalid
    places. All other types behave as in the SDK. A named tuple is read from an object or an array and written as an
    array.

    An envelope of the bridge (bridge.core.origin) is removed: workflows receive the data in it. Data that looks like an
    envelope is itself written into an envelope, which preserves it.
    """

    def serialize(self, value: Any) -> str | None:
        """Convert a value to JSON text. Raises: TypeError for a value that has no JSON form."""
        if type(value) is Prepared:
            return value.text
        if value is None:
            return None
        text = _ENCODER.encode(value)
        if text.startswith(_WRAPPED_PREFIX) and type(value) is not Wrapped:
            return json.dumps(wrap_payload(json.loads(text), None))
        return text

    def deserialize(self, data: str | None, target_type: Any = None) -> Any:
        """Convert JSON text to a value of a type.

        Raises: TypeError if the payload does not fit a type added by this class.
        """
        if data and may_be_wrapped(data):
            value = _loads(data)
            inside = envelope_body(value)
            if inside is not None:
                value = inside.get("data")
            if target_type is None:
                return value
            if _is_carrier(target_type):
                return (
                    target_type(inside, value) if target_type.wanted is None else target_type.carry(inside, value, self)
                )
            return self.coerce(value, target_type)
        if data and _is_carrier(target_type):
            return target_type.carry(None, super().deserialize(data), self)
        if not data or target_type is None or not _ours(target_type):
            return _explained(super().deserialize(data, target_type), target_type)
        return _validated(super().deserialize(data), target_type)

    def coerce(self, value: Any, target_type: Any = None) -> Any:
        """Convert a JSON value to a type. Raises: TypeError if the value does not fit a type added by this class."""
        if value is None or target_type is None or not _ours(target_type):
            return _explained(super().coerce(value, target_type), target_type)
        return _validated(value, target_type)

    def can_reconstruct(self, target_type: Any) -> bool:
        return _ours(target_type) or super().can_reconstruct(target_type)


class UnfitInput(dict[str, Any]):
    """Mapping that lacks required fields of the dataclass it is meant for. The SDK passes such values as they are.

    Reading an attribute raises an AttributeError that names the dataclass and the missing field.
    """

    __slots__ = ("_what",)

    def __init__(self, value: dict[str, Any], what: str) -> None:
        super().__init__(value)
        self._what = what

    def __getattr__(self, name: str) -> Any:
        # Private names are asked for by copying and pickling, before there is a text
        raise AttributeError(name if name.startswith("_") else self._what)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


def _explained(value: Any, target_type: Any) -> Any:
    """Value, or the same mapping as an UnfitInput if it lacks fields of a dataclass."""
    if value.__class__ is not dict:
        return value
    for kind in (target_type, *get_args(target_type)):
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            missing = [name for name in _required(kind) if name not in value]
            if missing:
                fields = f"the field {missing[0]} is" if len(missing) == 1 else f"the fields {', '.join(missing)} are"
                return UnfitInput(value, f"input: {fields} missing, which {kind.__name__} needs")
    return value


@lru_cache(maxsize=2048)
def _required(kind: Any) -> tuple[str, ...]:
    """Fields that a dataclass cannot be created without."""
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    )


_WRAPPED_PREFIX = f'{{"{KEY}"'


def _loads(text: str) -> Any:
    """Parse JSON three times as fast as `json.loads`, without the search for the SDK's former marker in messages."""
    try:
        return from_json(text, cache_strings="keys")
    except ValueError:
        return json.loads(text)  # lone surrogates, great depth


@lru_cache(maxsize=2048)
def _is_carrier(target_type: Any) -> bool:
    return isinstance(target_type, type) and issubclass(target_type, EnvelopeArgument)


_ENCODER = json.JSONEncoder(default=lambda value: _encode(value))
"""Shared encoder, because `json.dumps` creates one for every call."""


@lru_cache(maxsize=2048)
def _ours(target_type: Any) -> bool:
    """True if the type contains a pydantic model or a named tuple."""
    return _holds_ours(target_type, frozenset())


def _holds_ours(kind: Any, seen: frozenset[Any]) -> bool:
    if kind in seen:
        return False
    if isinstance(kind, type):
        if issubclass(kind, BaseModel) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            return True
        if dataclasses.is_dataclass(kind) and not hasattr(kind, "from_json"):
            try:
                hints = get_type_hints(kind)
            except (NameError, TypeError):
                return False  # the SDK cannot resolve the types of its fields either
            return any(_holds_ours(hint, seen | {kind}) for hint in hints.values())
    return any(_holds_ours(part, seen) for part in get_args(kind))


@lru_cache(maxsize=2048)
def _adapter(target_type: Any) -> TypeAdapter[Any]:
    return TypeAdapter(target_type)


def _validated(value: Any, target_type: Any) -> Any:
    try:
        return _adapter(target_type).validate_python(value)
    except ValidationError as error:
        # The values are left out, because the error text ends up in histories and logs
        wrong = "; ".join(
            f"{'.'.join(map(str, found['loc'])) or 'value'}: {found['msg']}"
            for found in error.errors(include_input=False, include_url=False, include_context=False)[:5]
        )
        name = getattr(target_type, "__name__", str(target_type))
        raise TypeError(f"the payload does not fit {name}: {wrong}") from None


def _encode(value: Any) -> Any:
    hook = getattr(type(value), "to_json", None)
    if callable(hook):
        return hook(value)
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, SimpleNamespace):
        return vars(value)
    try:
        return to_jsonable_python(value)
    except PydanticSerializationError:
        raise TypeError(f"a value of type {type(value).__name__} has no JSON form") from None
