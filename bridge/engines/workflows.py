"""Workflows of a configuration: import of user modules, and the orchestrators, activities and entities in them.

Modules are imported from the directory of the configuration file first. Errors name the place.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from durabletask.entities import DurableEntity, EntityContext, EntityInstanceId
from durabletask.task import ActivityContext, OrchestrationContext, get_entity_name

from bridge.core.errors import ConfigError, Locate, Problem
from bridge.core.problems.codes import coded
from bridge.core.system_names import PREFIX
from bridge.core.user_code.kinds import CONTEXTS, FunctionKind, Parameter, annotation_kind, kind_of

_imported: dict[str, Path] = {}
"""Top-level modules that were imported for a configuration, with the directory in which they were looked up."""

_MESSAGE_LIMIT = 200

_CLASSES: tuple[type[Any], ...] = (OrchestrationContext, ActivityContext, EntityContext)
_FORMS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "**",
}


@dataclass(frozen=True, slots=True)
class Workflows:
    """Workflows of a worker by registered name. Names of entities are lower case, as in the SDK.

    external: orchestrations, activities and entities that other workers run; known here, not registered.
    publishers: True for a set of publishing activities only, which get a worker with threads of its own.
    """

    orchestrators: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    activities: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    entities: Mapping[str, Callable[..., Any] | type[Any]] = field(default_factory=dict)
    external: frozenset[str] = frozenset()
    publishers: bool = False

    def joined(self, others: Iterable[Workflows]) -> Workflows:
        """Join with other workflows, for one worker."""
        found = self
        for each in others:
            found = replace(
                found,
                orchestrators={**found.orchestrators, **each.orchestrators},
                activities={**found.activities, **each.activities},
                entities={**found.entities, **each.entities},
                external=found.external | each.external,
            )
        return found

    def knows(self, kind: FunctionKind, name: str) -> bool:
        """True when this or another worker runs the name. The bridge's own names are always known."""
        if name.startswith(PREFIX):
            return True
        match kind:
            case FunctionKind.ACTIVITY:
                return name in self.activities or name in self.external
            case FunctionKind.ORCHESTRATOR:
                return self.knows_orchestration(name)
            case FunctionKind.ENTITY:
                return self.knows_entity(name)

    def knows_orchestration(self, name: str) -> bool:
        return name in self.orchestrators or name in self.external

    def knows_entity(self, name: str) -> bool:
        return name.lower() in self.entities or name.lower() in {one.lower() for one in self.external}


def load(
    modules: Sequence[str], base: Path, locate: Locate | None = None, *, external: Sequence[str] = ()
) -> Workflows:
    """Import the modules and collect the workflows in them.

    modules: module or package names (a package with its submodules, except private ones and `__main__`), or
    `module:name` for a single function or class. The directory of the configuration file is searched first.
    base: directory of the configuration file, which is put at the front of `sys.path` and stays there, because
    workflows also import lazily.
    locate: creates a Problem from a configuration path, `("workflows", "modules", 2)`, and a description.

    Workflows are: functions whose first parameter is annotated with OrchestrationContext, ActivityContext or
    EntityContext; without an annotation, functions whose first parameter is named ctx or context (a generator is an
    orchestrator, any other function an activity); and subclasses of DurableEntity. Each is collected only in the module
    that defines it, and not when its name begins with `_`. The SDK calls functions with context and input. Functions
    that need more arguments are therefore left out as helpers.

    Raises: ConfigError with every problem: failed imports, name clashes, async functions.
    """
    locate = locate or (lambda path, what: Problem(str(base), 0, 0, _dotted(path), what))
    found: dict[FunctionKind, dict[str, Callable[..., Any]]] = {kind: {} for kind in FunctionKind}
    problems: list[Problem] = []
    for position, reference in enumerate(modules):
        path = ("workflows", "modules", position)
        try:
            members, wrong = _members(reference, base)
        except ImportFailed as error:
            problems.append(coded("C013", locate(path, str(error))))
            continue
        problems += [coded("C013", locate(path, what)) for what in wrong]
        for kind, name, member in members:
            other = found[kind].setdefault(name, member)
            if other is not member:
                what = f"{kind} {name!r} is defined twice: {location(other)} and {location(member)}"
                problems.append(coded("C010", locate(path, what)))
    if problems:
        raise ConfigError(problems)
    return Workflows(
        orchestrators=MappingProxyType(found[FunctionKind.ORCHESTRATOR]),
        activities=MappingProxyType(found[FunctionKind.ACTIVITY]),
        entities=MappingProxyType(found[FunctionKind.ENTITY]),
        external=frozenset(external),
    )


def functions(base: Path) -> Callable[[str], Callable[..., Any]]:
    """Create a resolver of `module:function` references, which looks beside the configuration file first.

    The resolver raises ImportFailed (its text names module, cause and line) when the function does not exist.
    """

    def resolve(reference: str) -> Callable[..., Any]:
        module_name, _, name = reference.partition(":")
        if not name:
            raise ImportFailed(f"{reference!r} must have the form module:function")
        member = _attribute(import_module(module_name, base), name)
        if not callable(member):
            raise ImportFailed(f"{name!r} in module {module_name!r} is not a function")
        function: Callable[..., Any] = member
        return function

    return resolve


Member = tuple[FunctionKind, str, Callable[..., Any]]


def _members(reference: str, base: Path) -> tuple[list[Member], list[str]]:
    """Workflows that a reference names, and descriptions of its problems. Raises: ImportFailed."""
    module_name, _, name = reference.partition(":")
    module = import_module(module_name, base)
    if name:
        candidates = [_attribute(module, name)]
    else:
        candidates = [member for part in walk(module, base) for member in _own(part)]
    members: list[Member] = []
    problems: list[str] = []
    for candidate in candidates:
        try:
            kind = classify(candidate)
            if kind is not None:
                members.append(
                    (kind, entity_name(candidate) if kind is FunctionKind.ENTITY else candidate.__name__, candidate)
                )
            elif name:
                problems.append(f"{reference!r} is not an orchestrator, activity or entity ({location(candidate)})")
        except Unusable as error:
            problems.append(str(error))
    if not members and not problems:
        problems.append(f"no orchestrators, activities or entities in {reference!r}")
    return members, problems


def _own(module: ModuleType) -> list[Any]:
    """Public members that the module defines, each once, in the order of their definition."""
    own = {
        id(member): member
        for name, member in vars(module).items()
        if not name.startswith("_") and callable(member) and getattr(member, "__module__", None) == module.__name__
    }
    return list(own.values())


def _attribute(module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            raise ImportFailed(f"module {module.__name__!r} has no {name!r}") from None
    return value


def _dotted(path: tuple[str | int, ...]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


# Import of modules


class ImportFailed(Exception):
    """Raised when a user module cannot be imported; the text names module, cause and line."""


def import_module(name: str, base: Path) -> ModuleType:
    """Import a module, looking in `base` first; `base` is put at the front of `sys.path` and stays there.

    A top-level module of the same name that an earlier call imported from another directory is imported again.
    Raises: ImportFailed.
    """
    base = base.absolute()
    _prefer(base)
    top = name.partition(".")[0]
    _forget_other(top, base)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ImportFailed(_describe(name, error, base)) from error
    _imported.setdefault(top, base)
    return module


def walk(module: ModuleType, base: Path) -> Iterator[ModuleType]:
    """Yield the module and, of a package, its submodules at any depth, except private ones and `__main__`.

    Raises: ImportFailed.
    """
    yield module
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if not found.name.startswith("_"):
            yield from walk(import_module(f"{module.__name__}.{found.name}", base), base)


def _prefer(base: Path) -> None:
    entry = str(base)
    if sys.path[:1] != [entry]:
        if entry in sys.path:
            sys.path.remove(entry)
        sys.path.insert(0, entry)


def _forget_other(top: str, base: Path) -> None:
    loaded = sys.modules.get(top)
    if loaded is None:
        return
    here = (base / top).is_dir() or (base / f"{top}.py").is_file()
    origin = _file_of(loaded)
    if not here or origin is None or origin.is_relative_to(base):
        return
    if top not in _imported:
        raise ImportFailed(f"module {top!r} beside the configuration has the name of {origin}; rename it")
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]
    del _imported[top]


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    if file is not None:
        return Path(file).absolute()
    paths = list(getattr(module, "__path__", ()))
    return Path(paths[0]).absolute() if paths else None


def _describe(name: str, error: BaseException, base: Path) -> str:
    message = (str(error).splitlines() or [""])[0][:_MESSAGE_LIMIT]
    what = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        what, where = f"{type(error).__name__}: {error.msg}", f"{error.filename}:{error.lineno}"
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if not frame.filename.startswith("<frozen")
            and frame.filename != __file__
            and "importlib" not in frame.filename
        ]
        mine = [frame for frame in frames if Path(frame.filename).is_relative_to(base)] or frames
        where = f"{mine[-1].filename}:{mine[-1].lineno}" if mine else ""
    return f"cannot import {name!r}: {what}" + (f" ({where})" if where else "")


# Kinds of functions and classes


class Unusable(Exception):
    """Raised for a function meant for the SDK that the SDK cannot run; the text gives reason and place."""


def classify(member: Any) -> FunctionKind | None:
    """Kind of a workflow function or class; None for anything else. Raises: Unusable."""
    if inspect.isclass(member):
        return FunctionKind.ENTITY if issubclass(member, DurableEntity) and member is not DurableEntity else None
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
    if kind is FunctionKind.ACTIVITY and inspect.iscoroutinefunction(member):
        return kind
    if inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner):
        remedy = "write it with `yield`" if kind is FunctionKind.ORCHESTRATOR else "write it as a plain function"
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


def _context(annotation: Any, function: Callable[..., Any]) -> FunctionKind | None:
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


def _named(text: str, function: Callable[..., Any]) -> FunctionKind | None:
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
