"""Classification of functions in source code. Annotations are followed across modules to the SDK's context classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from bridge.core.user_code.kinds import CONTEXT_NAMES, CONTEXTS, FunctionKind, Parameter, annotation_kind, kind_of
from bridge.lint.module import Function, Module, named
from bridge.lint.tree import children, nodes, walk

WAITING_CALLS = frozenset(
    [
        "call_activity",
        "call_sub_orchestrator",
        "call_entity",
        "create_timer",
        "wait_for_external_event",
        "lock_entities",
    ]
)
"""Methods of the orchestration context whose result must be yielded."""

ROOT = "durabletask"
_DEPTH = 12
"""Maximum number of steps along which an alias is followed."""


class Modules(Protocol):
    """Look-up of the modules that a project consists of."""

    def module(self, name: str, near: Module) -> Module | None:
        """Module in the top-level package of `near`, or next to it; None for any other module."""
        ...


@dataclass(frozen=True, slots=True)
class Orchestrator:
    """A function to analyse. registered: the bridge's workers run the function under its name."""

    function: Function
    registered: bool


def orchestrators(project: Modules, module: Module) -> Iterator[Orchestrator]:
    """Orchestrators of a module, registered or not.

    Methods, nested functions and private functions are not registered. Neither are functions that make durable calls
    on a first parameter whose annotation and name do not identify it as a context.
    """
    methods = {
        id(method) for class_ in nodes(module.tree) if isinstance(class_, ast.ClassDef) for method in class_.body
    }
    public = {id(function) for function in _public(module)}
    for node in nodes(module.tree):
        if isinstance(node, ast.Lambda):
            if node.args.args and node.args.args[0].arg in CONTEXT_NAMES and _waits(node.body, node.args.args[0].arg):
                yield Orchestrator(named(node), False)
            continue
        if not isinstance(node, Function):
            continue
        is_method = id(node) in methods
        kind = function_kind(project, module, node, is_method=is_method)
        if kind is FunctionKind.ORCHESTRATOR:
            yield Orchestrator(node, id(node) in public)
            continue
        given = _given(node, is_method=is_method)
        # Independent of the annotation: a function that makes durable calls is run by the SDK, or by a caller that
        # is analysed together with it
        unclear = bool(given) and (given[0].annotation is None or _unknown(project, module, given[0].annotation))
        if (
            unclear
            and _waits(node, given[0].arg)
            and (given[0].arg in CONTEXT_NAMES or is_generator(node))
            and len(given) - len(node.args.defaults) <= 2
        ):
            yield Orchestrator(node, False)


def registered(project: Modules, module: Module) -> Iterator[tuple[FunctionKind, str]]:
    """Kind and name of each orchestrator, activity and entity that the bridge's workers run from a module.

    Entity names are in lower case.
    """
    for function in _public(module):
        kind = function_kind(project, module, function, is_method=False)
        if kind is not None:
            yield kind, function.name.lower() if kind is FunctionKind.ENTITY else function.name
    for name, class_ in module.classes.items():
        if not name.startswith("_") and is_entity(project, module, class_):
            yield FunctionKind.ENTITY, _entity_name(class_).lower()


def function_kind(project: Modules, module: Module, function: Function, *, is_method: bool) -> FunctionKind | None:
    """Kind of a function according to its signature; None if it has none."""
    arguments = function.args
    given = _given(function, is_method=is_method)
    first = given[0] if given else None
    optional = len(arguments.defaults)
    parameters = [
        Parameter(
            one.arg,
            "positional",
            position < len(given) - optional,
            one.annotation is not None,
            annotation_context(project, module, one.annotation)
            if one is first and one.annotation is not None
            else None,
        )
        for position, one in enumerate(given)
    ]
    if arguments.vararg is not None:
        parameters.append(Parameter(arguments.vararg.arg, "*", False, False, None))
    parameters += [
        Parameter(one.arg, "keyword", default is None, False, None)
        for one, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return kind_of(parameters, is_generator=is_generator(function))


def annotation_context(project: Modules, module: Module, annotation: ast.expr, depth: int = 0) -> FunctionKind | None:
    """Kind of the context class that an annotation refers to; None if it refers to no context."""
    return annotation_kind(annotation, lambda leaf: _leaf(project, module, leaf, depth))


def context_names(project: Modules, module: Module, function: Function) -> set[str]:
    """Parameters that hold the orchestration context, in the function and in functions nested in it."""
    names = {*CONTEXT_NAMES, "_ctx"}
    for node in nodes(function):
        if isinstance(node, Function):
            for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                if one.annotation is not None and (
                    annotation_context(project, module, one.annotation) is FunctionKind.ORCHESTRATOR
                ):
                    names.add(one.arg)
    return names


def hide_activities(project: Modules, module: Module) -> None:
    """Empty the bodies of activities defined inside another function, because no orchestrator runs them."""
    for outer in nodes(module.tree):
        if not isinstance(outer, Function):
            continue
        # nodes() caches its result, and other rules must not see these bodies
        inside = walk(outer)
        inner = [node for node in inside if isinstance(node, Function) and node is not outer]
        if not inner:
            continue
        calls = [node for node in inside if isinstance(node, ast.Call)]
        run = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        given = {
            call.args[0].id
            for call in calls
            if isinstance(call.func, ast.Attribute) and call.func.attr == "call_activity"
            if call.args and isinstance(call.args[0], ast.Name)
        }
        for function in inner:
            is_activity = function.name in given or (
                function_kind(project, module, function, is_method=False)
                in (FunctionKind.ACTIVITY, FunctionKind.ENTITY)
                and function.args.args[:1]
                and function.args.args[0].annotation is not None
            )
            if is_activity and function.name not in run:
                function.body = [ast.copy_location(ast.Pass(), function.body[0])]


def is_generator(function: Function) -> bool:
    """True if a call of the function only creates a generator."""
    stack: list[ast.AST] = list(function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, Function | ast.Lambda | ast.ClassDef):
            stack += children(node)
    return False


def is_entity(project: Modules, module: Module, class_: ast.ClassDef, depth: int = 0) -> bool:
    """True if a class inherits from the SDK's DurableEntity, directly or through classes of the project."""
    for base in class_.bases:
        name = module.resolve(base.value if isinstance(base, ast.Subscript) else base) or ""
        if name.rpartition(".")[2] in ("DurableEntity", "Entity") and name.split(".")[0] in (ROOT, "bridge"):
            return True
        found = class_named(project, module, name)
        if found is not None and depth < _DEPTH and is_entity(project, *found, depth + 1):
            return True
    return False


def class_named(project: Modules, module: Module, name: str) -> tuple[Module, ast.ClassDef] | None:
    """Class of the project that a dotted name refers to, with its module; None if there is none."""
    if name in module.classes:
        return module, module.classes[name]
    home, _, last = name.rpartition(".")
    other = project.module(home, module) if home else None
    return (other, other.classes[last]) if other is not None and last in other.classes else None


def _leaf(project: Modules, module: Module, leaf: ast.expr, depth: int) -> FunctionKind | None:
    if depth > _DEPTH:
        return None
    if isinstance(leaf, ast.Name):
        meaning = _meaning(module, leaf.id)
        if meaning is not None:
            return _value(project, module, meaning, depth + 1)
    name = module.resolve(leaf) or ""
    home, _, last = name.rpartition(".")
    if name.partition(".")[0] == ROOT:
        return CONTEXTS.get(last)
    other = project.module(home, module) if home else None
    if other is not None and other is not module:
        return _leaf(project, other, ast.Name(last, ast.Load()), depth + 1)
    # An unavailable module may re-export the SDK's class
    return CONTEXTS.get(last)


def _unknown(project: Modules, module: Module, annotation: ast.expr) -> bool:
    """True if an annotation refers to a class from an unavailable module that may be a context."""

    def leaf(node: ast.expr) -> FunctionKind | None:
        if isinstance(node, ast.Name) and _meaning(module, node.id) is not None:
            return None
        home = (module.resolve(node) or "").rpartition(".")[0]
        return FunctionKind.ORCHESTRATOR if home and project.module(home, module) is None else None

    return annotation_context(project, module, annotation) is None and annotation_kind(annotation, leaf) is not None


def _value(project: Modules, module: Module, value: ast.expr | ast.ClassDef, depth: int) -> FunctionKind | None:
    """Kind that a name of the module stands for: a class, an alias, a NewType or a TypeVar."""
    if depth > _DEPTH:
        return None
    if isinstance(value, ast.ClassDef):
        return next((kind for one in value.bases if (kind := annotation_context(project, module, one, depth))), None)
    if isinstance(value, ast.Call):
        called = (module.resolve(value.func) or "").rpartition(".")[2]
        if called == "NewType" and len(value.args) == 2:
            value = value.args[1]
        elif called == "TypeVar":
            bound = next((one.value for one in value.keywords if one.arg == "bound"), None)
            return None if bound is None else annotation_context(project, module, bound, depth)
        else:
            return None
    return annotation_context(project, module, value, depth)


def _meaning(module: Module, name: str) -> ast.expr | ast.ClassDef | None:
    return _meanings(module.tree).get(name)


@lru_cache(maxsize=64)
def _meanings(tree: ast.Module) -> dict[str, ast.expr | ast.ClassDef]:
    """Classes and aliases of a module, including those in branches such as `if TYPE_CHECKING`."""
    found: dict[str, ast.expr | ast.ClassDef] = {}
    for node in _statements(tree.body):
        if isinstance(node, ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found.update({one.id: node.value for one in node.targets if isinstance(one, ast.Name)})
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node.value
        elif type(node).__name__ == "TypeAlias":  # `type X = ...`, of Python 3.12
            found[node.name.id] = node.value  # type: ignore[attr-defined]  # no such node in the oldest Python
    return found


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a module, including those in its branches, without those of functions and classes."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


def _public(module: Module) -> list[Function]:
    """Public top-level functions of the module. The last definition of a name counts."""
    found: dict[str, Function] = {}
    for node in _statements(module.tree.body):
        if isinstance(node, Function):
            found[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in found:
            found.update({one.id: found[node.value.id] for one in node.targets if isinstance(one, ast.Name)})
    return list({id(function): function for name, function in found.items() if not name.startswith("_")}.values())


def _given(function: Function, *, is_method: bool) -> list[ast.arg]:
    """Positional parameters that a caller fills."""
    given = [*function.args.posonlyargs, *function.args.args]
    return given[1:] if is_method and given and given[0].arg in ("self", "cls") else given


def _entity_name(class_: ast.ClassDef) -> str:
    for node in class_.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and target.id == "__durable_entity_name__":
                    return str(node.value.value)
    return class_.name


def _waits(node: ast.AST, context: str) -> bool:
    """True if a node makes durable calls on the given name."""
    return any(
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == context
        and call.func.attr in WAITING_CALLS
        for call in nodes(node)
    )
