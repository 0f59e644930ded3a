"""What a replay would not repeat: clocks, chance, the outside world and globals."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bridge.lint.finding import Finding
from bridge.lint.forbidden import ACTIVITY, PATH_METHODS, forbidden_call, forbidden_function, forbidden_name
from bridge.lint.module import Module, local_names
from bridge.lint.place import found
from bridge.lint.project import Reached
from bridge.lint.tree import nodes
from bridge.lint.tree import parents as parents_in


def nondeterminism(reached: Reached) -> Iterator[Finding]:
    """Findings in one function that an orchestrator runs."""
    module, function = reached.module, reached.function
    local = local_names(function)
    for nested in nodes(function):
        if isinstance(nested, ast.FunctionDef | ast.AsyncFunctionDef):
            local |= local_names(nested)
    parents = parents_in(function)
    aliases = module.aliases(nodes(function))
    for node in nodes(function):
        if isinstance(node, ast.Call):
            yield from _call(module, node, local, aliases, reached)
        if isinstance(node, ast.Attribute | ast.Name):
            yield from _name(module, node, local, reached, parents)
        if isinstance(node, ast.Global):
            names = ", ".join(node.names)
            yield found(
                reached, node, "globals", f"{names} of the module is assigned", "keep it in the input, or in an entity"
            )


def _call(
    module: Module, node: ast.Call, local: frozenset[str], aliases: dict[str, str], reached: Reached
) -> Iterator[Finding]:
    yield from _passed(module, node, local, reached)
    name = module.resolve(node.func)
    if isinstance(node.func, ast.Name) and node.func.id in aliases:
        name, local = aliases[node.func.id], local - {node.func.id}
    if name is None:
        if _is_path_access(module, node.func):
            yield found(reached, node, "files", "a Path goes to the disk in an orchestrator", ACTIVITY)
        return
    first = name.partition(".")[0]
    if isinstance(node.func, ast.Name) and (node.func.id in local or node.func.id in module.functions):
        return
    if first in local and first not in module.names:
        return
    if name == "random.Random" and not node.args:
        yield found(reached, node, "random", "Random() seeds itself from the clock", "give it a seed from the input")
        return
    forbidden = forbidden_call(name)
    if forbidden is not None:
        rule, remedy = forbidden
        yield found(reached, node, rule, f"{name}() in an orchestrator", remedy)


def _passed(module: Module, node: ast.Call, local: frozenset[str], reached: Reached) -> Iterator[Finding]:
    """Forbidden functions that are handed to somebody who calls them: `map(uuid4, ...)`, `partial(datetime.now)`."""
    for value in (*node.args, *(keyword.value for keyword in node.keywords)):
        if not isinstance(value, ast.Name | ast.Attribute):
            continue
        name = module.resolve(value)
        if name is None or "." not in name or name.partition(".")[0] in local - module.names.keys():
            continue
        forbidden = forbidden_function(name)
        if forbidden is not None:
            yield found(reached, value, forbidden[0], f"{name} is handed on in an orchestrator", forbidden[1])


def _is_path_access(module: Module, called: ast.expr) -> bool:
    """`Path(...).read_text` and the like."""
    return (
        isinstance(called, ast.Attribute)
        and called.attr in PATH_METHODS
        and isinstance(called.value, ast.Call)
        and module.resolve(called.value.func) == "pathlib.Path"
    )


def _name(
    module: Module,
    node: ast.Attribute | ast.Name,
    local: frozenset[str],
    reached: Reached,
    parents: dict[ast.AST, ast.AST],
) -> Iterator[Finding]:
    if isinstance(node, ast.Name):
        if node.id in module.changing_globals and node.id not in local and isinstance(node.ctx, ast.Load):
            remedy = "keep it in the input, or in an entity"
            yield found(reached, node, "globals", f"{node.id} of the module changes while the program runs", remedy)
        if node.id not in module.names or isinstance(parents.get(node), ast.Attribute):
            return
    name = module.resolve(node)
    forbidden = None if name is None else forbidden_name(name)
    if forbidden is not None:
        yield found(reached, node, forbidden[0], f"{name} in an orchestrator", forbidden[1])
