"""What a function or class is to the SDK: orchestrator, activity, entity, or none of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from enum import StrEnum
from typing import Any

from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.task import ActivityContext, OrchestrationContext, get_entity_name

CONTEXT_NAMES = ("ctx", "context")


class Kind(StrEnum):
    ORCHESTRATOR = "orchestrator"
    ACTIVITY = "activity"
    ENTITY = "entity"


class Unusable(Exception):
    """Meant for the SDK, but it cannot run it; the text says why and where."""


_CONTEXTS: dict[type[Any], Kind] = {
    OrchestrationContext: Kind.ORCHESTRATOR,
    ActivityContext: Kind.ACTIVITY,
    EntityContext: Kind.ENTITY,
}
_BY_NAME = {context.__name__: kind for context, kind in _CONTEXTS.items()}


def classify(member: Any) -> Kind | None:
    """None for anything that is not a workflow function or class. Raises: Unusable."""
    if inspect.isclass(member):
        return Kind.ENTITY if issubclass(member, DurableEntity) and member is not DurableEntity else None
    if not inspect.isfunction(member):
        return None
    parameters = list(inspect.signature(member).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        return None
    kind = _by_annotation(parameters[0].annotation, member)
    if kind is None and parameters[0].annotation is inspect.Parameter.empty and parameters[0].name in CONTEXT_NAMES:
        generator = inspect.isgeneratorfunction(inspect.unwrap(member))
        kind = Kind.ORCHESTRATOR if generator else Kind.ACTIVITY
    if kind is None or not _takes_context_and_input(member):
        return None
    inner = inspect.unwrap(member)
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        remedy = "write it with `yield`" if kind is Kind.ORCHESTRATOR else "write it as a plain function"
        raise Unusable(f"{kind} {member.__name__!r} is async, which the SDK cannot run; {remedy} ({location(member)})")
    return kind


def entity_name(member: Any) -> str:
    """The name an entity is registered under. Raises: Unusable."""
    name = get_entity_name(member).lower()
    try:
        EntityInstanceId.validate_entity_name(name)
    except ValueError as error:
        raise Unusable(f"entity {name!r}: {error} ({location(member)})") from error
    return name


def location(member: Any) -> str:
    """`file:line` of a definition, as well as it is known."""
    try:
        target = inspect.unwrap(member)
        if inspect.isfunction(target):
            return f"{target.__code__.co_filename}:{target.__code__.co_firstlineno}"
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return f"{getattr(member, '__module__', '?')}.{getattr(member, '__qualname__', '?')}"


def _by_annotation(annotation: Any, function: Callable[..., Any]) -> Kind | None:
    if isinstance(annotation, str):
        # Written so, or by `from __future__ import annotations`. The name may exist for type checkers only.
        text = annotation.strip("\"' ")
        try:
            annotation = eval(text, inspect.unwrap(function).__globals__)  # noqa: S307 - the module was just imported
        except Exception:
            return _BY_NAME.get(text.rpartition(".")[2])
    if inspect.isclass(annotation):
        for context, kind in _CONTEXTS.items():
            if issubclass(annotation, context):
                return kind
    return None


def _takes_context_and_input(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    return True
