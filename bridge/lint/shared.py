"""Values that outlive a run: globals that change, and globals that each start of the program creates again."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bridge.lint.finding import Finding
from bridge.lint.module import Module, SharedNames, changed, changed_value, local_names
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.tree import nodes

REMEDY = "keep it in the input, or in an entity"


def shared(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings in one function that an orchestrator runs."""
    module, function = reached.module, reached.function
    local = local_names(function).union(
        *(local_names(nested) for nested in nodes(function) if isinstance(nested, ast.FunctionDef))
    )
    names = SharedNames(module, function)
    for node in nodes(function):
        if isinstance(node, ast.Global):
            yield finding_at(reached, node, "globals", f"{', '.join(node.names)} of the module is assigned", REMEDY)
        elif isinstance(node, ast.Attribute) and (name := names.of(node)) is not None and "." in name:
            if name in module.changing_globals:
                done = "changes while the program runs" if isinstance(node.ctx, ast.Load) else "is assigned"
                yield finding_at(reached, node, "globals", f"{name} of the class {done}", REMEDY)
        elif _sets_attribute(node) and (name := names.changed(node)) is not None and "." in name:
            yield finding_at(reached, node, "globals", f"{name} of the class is assigned", REMEDY)
        elif (given := _given(reached, node)) is not None:
            yield finding_at(
                reached, node, "globals", f"{given} of the module, which is passed here, is changed", REMEDY
            )
        elif (foreign := _changed_elsewhere(project, module, node, local)) is not None:
            yield finding_at(reached, node, "globals", f"{foreign} is changed", REMEDY)
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from _read(project, reached, node, local)
    yield from _defaults(reached)


def _sets_attribute(node: ast.AST) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Name) and called.id in ("setattr", "delattr")


def _given(reached: Reached, node: ast.AST) -> str | None:
    """Long-lived value that a caller passes as a parameter and that a node changes in place; None if there is none."""
    name = changed(node)
    for caller, value in () if name is None else reached.given.get(name, ()):
        meant = SharedNames(caller.module, caller.function).of(value)
        if meant is not None and meant not in caller.module.classes:
            return meant
    return None


def _changed_elsewhere(project: Project, module: Module, node: ast.AST, local: frozenset[str]) -> str | None:
    """Value of another project module, or an attribute of its class, that a node changes; None if there is none."""
    base = changed_value(node)
    first: ast.AST | None = base
    while isinstance(first, ast.Attribute):
        first = first.value
    if base is None or not isinstance(first, ast.Name) or first.id in local:
        return None
    name = module.resolve(base) or ""
    home, _, last = name.rpartition(".")
    other = project.module(home, module) if home else None
    if other is not None:
        return name if other is not module and (other.is_container(last) or last in other.classes) else None
    # The base may also be an attribute of a class
    outer, _, class_ = home.rpartition(".")
    other = project.module(outer, module) if outer else None
    return name if other is not None and class_ in other.classes else None


def _read(
    project: Project, reached: Reached, node: ast.Name | ast.Attribute, local: frozenset[str]
) -> Iterator[Finding]:
    if not isinstance(node.ctx, ast.Load) or (isinstance(node, ast.Name) and node.id in local):
        return
    home, name = _home(project, reached.module, node)
    if home is None:
        return
    if name in home.changing_globals:
        what = f"{name} of the module changes while the program runs"
        yield finding_at(reached, node, "globals", what, REMEDY)
    if name in home.loaded:
        rule, made = home.loaded[name]
        what = f"{name} of the module holds the result of {made} from the start of the program"
        yield finding_at(reached, node, rule, what, REMEDY)


def _home(project: Project, module: Module, node: ast.Name | ast.Attribute) -> tuple[Module | None, str]:
    """Module that defines the value of a name, and the name there."""
    if isinstance(node, ast.Name) and node.id not in module.names:
        return module, node.id
    home, _, name = (module.resolve(node) or "").rpartition(".")
    return (project.module(home, module) if home else None), name


def _defaults(reached: Reached) -> Iterator[Finding]:
    """Findings for default values that every run shares and that are changed in place."""
    arguments = reached.function.args
    given = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(reversed(given), reversed(arguments.defaults), strict=False)]
    pairs += [(one, value) for one, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    mutable = {one.arg for one, value in pairs if isinstance(value, ast.List | ast.Dict | ast.Set)}
    changes = {name: node for node in nodes(reached.function) if (name := changed(node)) in mutable}
    for name, node in changes.items():
        yield finding_at(reached, node, "globals", f"{name} is shared by all runs that use the default", REMEDY)
