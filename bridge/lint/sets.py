"""Uses of sets whose result depends on their order, which differs between processes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bridge.lint.finding import Finding
from bridge.lint.module import Function, constants
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.tree import nodes
from bridge.lint.tree import parents as parents_in

ORDER_FREE = frozenset(["sorted", "sum", "any", "all", "min", "max", "len", "set", "frozenset"])
"""Functions whose result does not depend on the order of their input."""

ORDERED = frozenset(["list", "tuple", "enumerate", "iter", "next", "zip", "map", "filter", "reversed", "deque"])
"""Functions that keep the order of their input."""

ORDERED_METHODS = frozenset(["join", "extend", "fromkeys"])

SET_METHODS = frozenset(["union", "intersection", "difference", "symmetric_difference", "copy"])

REMEDY = "iterate sorted(...) of it"


def unordered(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings for the places where a set is put into an order."""
    parents = parents_in(reached.function)
    sets = _Sets(project, reached)
    for node in nodes(reached.function):
        what = _ordered(node, sets, parents)
        if what is not None:
            place = node.iter if isinstance(node, ast.For | ast.comprehension) else node
            yield finding_at(reached, place, "unordered", what, REMEDY)


def _ordered(node: ast.AST, sets: _Sets, parents: dict[ast.AST, ast.AST]) -> str | None:
    """Description of the ordered use of a set at a node; None if there is none."""
    if isinstance(node, ast.For):
        return "a set is iterated" if sets.has(node.iter) else None
    if isinstance(node, ast.comprehension):
        holder = parents[node]
        ordered = not isinstance(holder, ast.SetComp) and not _is_free(holder, parents)
        return "a set is iterated" if ordered and sets.has(node.iter) else None
    if isinstance(node, ast.Starred):
        holder = parents[node]
        ordered = isinstance(node.ctx, ast.Load) and not isinstance(holder, ast.Set) and not _is_free(holder, parents)
        return "a set is unpacked" if ordered and sets.has(node.value) else None
    if isinstance(node, ast.Assign):
        unpacked = any(isinstance(target, ast.Tuple | ast.List) for target in node.targets)
        return "a set is unpacked" if unpacked and sets.has(node.value) else None
    return _ordered_by_call(node, sets, parents) if isinstance(node, ast.Call) else None


def _ordered_by_call(node: ast.Call, sets: _Sets, parents: dict[ast.AST, ast.AST]) -> str | None:
    called = node.func
    if isinstance(called, ast.Attribute) and called.attr == "pop" and not node.args and sets.has(called.value):
        return "pop() takes an arbitrary element of a set"
    name = called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""
    keeps = name in (ORDERED if isinstance(called, ast.Name) else ORDERED_METHODS)
    if keeps and not _is_free(node, parents) and any(sets.has(argument) for argument in node.args):
        return f"{name}() gives a set an arbitrary order"
    return None


def _is_free(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """True if the caller that uses the node ignores the order."""
    user = parents.get(node)
    return isinstance(user, ast.Call) and isinstance(user.func, ast.Name) and user.func.id in ORDER_FREE


class _Sets:
    """Expressions of a function that are known to be sets."""

    def __init__(self, project: Project, reached: Reached) -> None:
        self._project = project
        self._module = reached.module
        self._global = constants(reached.module.tree)
        self._bound: dict[str, list[tuple[int, bool]]] = {}
        for node in nodes(reached.function):
            if isinstance(node, ast.arg):
                said = node.annotation is not None and _is_set_annotation(node.annotation)
                self._bind(node.arg, node.lineno - 1, said)
        # In the order of the lines: a value must be known before the names that use it
        for node in sorted(_bindings(nodes(reached.function)), key=lambda one: one.lineno):
            if isinstance(node, ast.AnnAssign):
                self._bind(_key(node.target), node.lineno, _is_set_annotation(node.annotation))
            elif node.value is not None:
                holds = self.has(node.value)
                for target in node.targets:
                    self._bind(_key(target), node.lineno, holds)

    def _bind(self, key: str, line: int, holds: bool) -> None:
        self._bound.setdefault(key, []).append((line, holds))

    def has(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.Name | ast.Attribute):
            return self._held_by(node)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
            return any(self.has(side) or _is_view(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.has(node.body) or self.has(node.orelse)
        return self._made_by(node) if isinstance(node, ast.Call) else False

    def _held_by(self, node: ast.Name | ast.Attribute) -> bool:
        key = _key(node)
        if key in self._bound:
            # The last binding above the use counts. In a loop, a later binding may matter too; it is ignored
            above = [holds for line, holds in self._bound[key] if line < node.lineno]
            return above[-1] if above else False
        value = self._global.get(key)
        return isinstance(value, ast.Set | ast.SetComp) or (isinstance(value, ast.Call) and _is_constructor(value))

    def _made_by(self, node: ast.Call) -> bool:
        if _is_constructor(node):
            return True
        if isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS and self.has(node.func.value):
            return True
        function = self._project.callee(self._module, node)
        return function is not None and _gives_set(function)


def _bindings(among: list[ast.AST]) -> Iterator[ast.Assign | ast.AnnAssign]:
    yield from (node for node in among if isinstance(node, ast.Assign | ast.AnnAssign))


def _key(node: ast.expr) -> str:
    """Source text of a name, or of an attribute of `self` or another value."""
    return ast.unparse(node)


def _is_set_annotation(annotation: ast.expr) -> bool:
    base = annotation.value if isinstance(annotation, ast.Subscript) else annotation
    return isinstance(base, ast.Name) and base.id in ("set", "frozenset", "Set", "FrozenSet", "AbstractSet")


def _is_constructor(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")


def _is_view(node: ast.expr) -> bool:
    """True for `a.keys()` and `a.items()`: operators on views create sets."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("keys", "items")


def _gives_set(function: Function) -> bool:
    """True if a function's annotation declares a set, or all its return values are sets."""
    if function.returns is not None:
        return _is_set_annotation(function.returns)
    values = [node.value for node in nodes(function) if isinstance(node, ast.Return) and node.value is not None]
    return bool(values) and all(
        isinstance(value, ast.Set | ast.SetComp) or (isinstance(value, ast.Call) and _is_constructor(value))
        for value in values
    )
