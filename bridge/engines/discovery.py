"""Classification of imported functions and classes: orchestrator, activity, entity, or none of them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
import types
import typing
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.task import ActivityContext, OrchestrationContext, get_entity_name

from bridge.core.kinds import CONTEXTS, Kind, Parameter, annotation_kind, kind_of

_CLASSES: tuple[type[Any], ...] = (OrchestrationContext, ActivityContext, EntityContext)
_FORMS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class Unusable(Exception):
    """Raised for a function meant for the SDK that the SDK cannot run; the text gives reason and place."""


def classify(member: Any) -> Kind | None:
    """Kind of a workflow function or class; None for anything else. Raises: Unusable."""
    if inspect.isclass(member):
        return Kind.ENTITY if issubclass(member, DurableEntity) and member is not DurableEntity else None
    if not inspect.isfunction(member):
        return None
    inner = inspect.unwrap(member)
    parameters = [
        Parameter(
            one.name,
            _FORMS[one.kind],
            one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD),
            one.annotation is not one.empty,
            _context(one.annotation, inner) if position == 0 else None,
        )
        for position, one in enumerate(inspect.signature(member).parameters.values())
    ]
    kind = kind_of(parameters, is_generator=inspect.isgeneratorfunction(inner))
    if kind is None:
        return None
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        remedy = "write it with `yield`" if kind is Kind.ORCHESTRATOR else "write it as a plain function"
        raise Unusable(f"{kind} {member.__name__!r} is async, which the SDK cannot run; {remedy} ({location(member)})")
    return kind


def entity_name(member: Any) -> str:
    """Name under which an entity is registered. Raises: Unusable."""
    name = get_entity_name(member).lower()
    try:
        EntityInstanceId.validate_entity_name(name)
    except ValueError as error:
        raise Unusable(f"entity {name!r}: {error} ({location(member)})") from error
    return name


def location(member: Any) -> str:
    """Place of a definition as `file:line`, or its module and name when the place is unknown."""
    try:
        target = inspect.unwrap(member)
        if inspect.isfunction(target):
            return f"{target.__code__.co_filename}:{target.__code__.co_firstlineno}"
        return f"{inspect.getsourcefile(target)}:{inspect.getsourcelines(target)[1]}"
    except (OSError, TypeError):
        return f"{getattr(member, '__module__', '?')}.{getattr(member, '__qualname__', '?')}"


def _context(annotation: Any, function: Callable[..., Any]) -> Kind | None:
    """Kind of the context class that an annotation refers to, or None."""
    if inspect.isclass(annotation) and not isinstance(annotation, types.GenericAlias):
        return next((CONTEXTS[each.__name__] for each in _CLASSES if issubclass(annotation, each)), None)
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        # Written as a string, or by `from __future__ import annotations`
        return annotation_kind(ast.Constant(annotation), lambda leaf: _named(ast.unparse(leaf), function))
    if isinstance(annotation, typing.TypeVar):
        return _context(annotation.__bound__, function)
    for alias in ("__value__", "__supertype__"):  # `type X = ...` and NewType
        if hasattr(annotation, alias):
            return _context(getattr(annotation, alias), function)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _context(arguments[0], function)
    if origin in (typing.Union, types.UnionType):
        return next((kind for one in arguments if (kind := _context(one, function))), None)
    return None if origin is None else _context(origin, function)


def _named(text: str, function: Callable[..., Any]) -> Kind | None:
    """Kind of a name in a function's module. The name may be imported for type checkers only."""
    try:
        return _context(eval(text, function.__globals__), function)  # noqa: S307 - the module was just imported
    except Exception:
        first, _, rest = text.partition(".")
    meaning = _unrun_names(function.__module__).get(first)
    if meaning is None:
        return CONTEXTS.get(text.rpartition(".")[2])
    if not isinstance(meaning, str):
        return annotation_kind(
            meaning, lambda leaf: None if (name := ast.unparse(leaf)) == text else _named(name, function)
        )
    module, _, name = f"{meaning}.{rest}".rstrip(".").rpartition(".")
    try:
        home = sys.modules.get(module) or importlib.import_module(module)
        return _context(getattr(home, name), function)
    except Exception:
        return CONTEXTS.get(name)


@lru_cache(maxsize=64)
def _unrun_names(module: str) -> dict[str, str | ast.expr]:
    """Names that a module's source defines anywhere: dotted imports, and values of aliases."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, KeyError, SyntaxError):
        return {}
    found: dict[str, str | ast.expr] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                found[one.asname or one.name.partition(".")[0]] = one.name if one.asname else one.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            if node.level:
                package = getattr(sys.modules[module], "__package__", None) or ""
                base = importlib.util.resolve_name(base, package)
            found.update({one.asname or one.name: f"{base}.{one.name}" for one in node.names})
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = node.value
        elif isinstance(node, ast.ClassDef) and node.bases:
            found[node.name] = node.bases[0]
    return found
