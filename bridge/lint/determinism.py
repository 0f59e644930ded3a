"""What a replay would not repeat: clocks, chance, the outside world, globals and sets."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bridge.lint.finding import Finding
from bridge.lint.forbidden import ACTIVITY, PATH_METHODS, forbidden_call, forbidden_function, forbidden_name
from bridge.lint.module import Module, local_names
from bridge.lint.project import Reached
from bridge.lint.tree import nodes
from bridge.lint.tree import parents as parents_in

ORDER_FREE = frozenset(["sorted", "sum", "any", "all", "min", "max", "len", "set", "frozenset"])
"""Consumers that do not care in which order they are fed."""

ORDERED = frozenset(["list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter", "reversed"])
"""Consumers that keep the order."""

SET_METHODS = frozenset(["union", "intersection", "difference", "symmetric_difference", "copy"])


def nondeterminism(reached: Reached) -> Iterator[Finding]:
    """Findings in one function that an orchestrator runs."""
    module, function = reached.module, reached.function
    local = local_names(function)
    for nested in nodes(function):
        if isinstance(nested, ast.FunctionDef | ast.AsyncFunctionDef):
            local |= local_names(nested)
    parents = parents_in(function)
    sets = _set_names(function)
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
        yield from _iteration(node, sets, parents, reached)


def found(reached: Reached, node: ast.AST, rule: str, what: str, remedy: str) -> Finding:
    """A finding at a node; in a helper it says which orchestrator runs it."""
    if not reached.is_orchestrator:
        what = f"{what} (in {reached.function.name}, which orchestrator {reached.orchestrator} runs)"
    line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
    return Finding(str(reached.module.path), line, column + 1, rule, what, remedy)


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


def _set_names(function: ast.AST) -> set[str]:
    """Local names that hold sets."""
    names: set[str] = set()
    for node in nodes(function):
        if isinstance(node, ast.arg) and node.annotation is not None and _is_set_annotation(node.annotation):
            names.add(node.arg)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if _is_set_annotation(node.annotation):
                names.add(node.target.id)
        elif isinstance(node, ast.Assign) and _is_set(node.value, names):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def _is_set_annotation(annotation: ast.expr) -> bool:
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(base, ast.Name) and base.id in ("set", "frozenset", "Set", "FrozenSet", "AbstractSet")


def _is_set(node: ast.expr, names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        sides = (node.left, node.right)
        return any(_is_set(side, names) or _is_view(side) for side in sides)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in ("set", "frozenset")
        return (
            isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS and _is_set(node.func.value, names)
        )
    return False


def _is_view(node: ast.expr) -> bool:
    """`a.keys()`: of views, operators make sets."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _iteration(node: ast.AST, sets: set[str], parents: dict[ast.AST, ast.AST], reached: Reached) -> Iterator[Finding]:
    remedy = "iterate sorted(...) of it"
    if isinstance(node, ast.For) and _is_set(node.iter, sets):
        yield found(reached, node.iter, "unordered", "a set is iterated", remedy)
    elif isinstance(node, ast.comprehension) and _is_set(node.iter, sets):
        holder = parents[node]
        user = parents.get(holder)
        free = isinstance(user, ast.Call) and isinstance(user.func, ast.Name) and user.func.id in ORDER_FREE
        if not isinstance(holder, ast.SetComp) and not free:
            yield found(reached, node.iter, "unordered", "a set is iterated", remedy)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ORDERED:
        user = parents.get(node)
        free = isinstance(user, ast.Call) and isinstance(user.func, ast.Name) and user.func.id in ORDER_FREE
        if not free and any(_is_set(argument, sets) for argument in node.args):
            yield found(reached, node, "unordered", f"{node.func.id}() puts a set into an order", remedy)
