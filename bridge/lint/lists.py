"""Calls of `when_all` and `when_any` with a list that may be empty."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Iterator
from typing import TypeAlias

from bridge.lint.finding import Finding
from bridge.lint.module import Function
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in

RULES = {"when_all": "empty-when-all", "when_any": "empty-when-any"}
"""Rule by SDK function."""

DRAINING = ("clear", "discard", "pop", "popitem", "popleft", "remove")

ValuesOf: TypeAlias = Callable[[str], list[ast.expr]]
"""Function that returns the constant values of a name that is not local."""


def empty_groups(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings for `when_all` and `when_any` with lists that may be empty."""
    function, module = reached.function, reached.module
    parents = parents_in(function)

    def values_of(name: str) -> list[ast.expr]:
        return project.module_values(module, name)

    for call in calls_in(function):
        name = module.resolve(call.func) or ""
        group = name.rpartition(".")[2]
        argument = next((one.value for one in call.keywords if one.arg == "tasks"), call.args[0] if call.args else None)
        if not name.startswith("durabletask.") or group not in RULES or argument is None:
            continue
        drained = isinstance(argument, ast.Name) and _is_drained(argument.id, call, function, parents)
        if not drained and (_never_empty(argument, function, values_of) or _is_given(argument, reached, values_of)):
            continue
        if any(_guarded(name, call, function, parents) for name in _feeders(argument, function)):
            continue
        what = "the list may be empty, and then this wait never completes"
        yield finding_at(reached, call, RULES[group], what, "wait only `if tasks:`")


def _is_given(argument: ast.expr, reached: Reached, values_of: ValuesOf) -> bool:
    """True if a list comes from the callers, and no caller passes an empty one.

    An orchestrator's own input is data, so only helpers receive tasks.
    """
    if not isinstance(argument, ast.Name) or _assignments(argument.id, reached.function):
        return False
    parameters = [*reached.function.args.posonlyargs, *reached.function.args.args, *reached.function.args.kwonlyargs]
    if argument.id not in {one.arg for one in parameters}:
        return False
    return reached.is_orchestrator or all(
        _never_empty(value, caller.function, values_of)
        or any(
            _guarded(name, value, caller.function, parents_in(caller.function))
            for name in _feeders(value, caller.function)
        )
        or _is_given(value, caller, values_of)
        for caller, value in reached.given.get(argument.id, ())
        if caller is not reached
    )


def _is_drained(name: str, call: ast.Call, function: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    """True if a loop around the call removes members from the list."""
    loop: ast.AST | None = call
    while loop is not None and not isinstance(loop, ast.For | ast.While):
        loop = parents.get(loop)
    if loop is None:
        return False
    for node in nodes(loop):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in DRAINING:
            if isinstance(node.func.value, ast.Name) and node.func.value.id == name:
                return True
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Del) and ast.unparse(node.value) == name:
            return True
    return False


def _assignments(name: str, function: ast.AST) -> list[ast.expr]:
    values = []
    for node in nodes(function):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            value = getattr(node, "value", None)
            values += [] if value is None else [value]
    return values


def _never_empty(node: ast.expr, function: ast.AST, values_of: ValuesOf, depth: int = 0) -> bool:
    """True if a collection certainly has an element."""
    if depth > 4:
        return False
    if isinstance(node, ast.Dict):
        return any(key is not None for key in node.keys)
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return any(
            not isinstance(element, ast.Starred) or _never_empty(element.value, function, values_of, depth + 1)
            for element in node.elts
        )
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
        return all(not one.ifs and _never_empty(one.iter, function, values_of, depth + 1) for one in node.generators)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            known = [one.value for one in node.args if isinstance(one, ast.Constant)]
            limits = [one for one in known if isinstance(one, int)]
            return len(limits) == len(node.args) in (1, 2) and len(range(*limits)) > 0
        if isinstance(node.func, ast.Name) and node.func.id == "enumerate":
            return bool(node.args) and _never_empty(node.args[0], function, values_of, depth + 1)
        inner = _wrapped(node)
        return inner is not None and _never_empty(inner, function, values_of, depth + 1)
    if isinstance(node, ast.IfExp):
        return _never_empty(node.body, function, values_of, depth + 1) and _never_empty(
            node.orelse, function, values_of, depth + 1
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _never_empty(node.left, function, values_of, depth + 1) or _never_empty(
            node.right, function, values_of, depth + 1
        )
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return _never_empty(node.values[-1], function, values_of, depth + 1)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Name):
        values = _assignments(node.id, function) or values_of(node.id)
        if values and all(_never_empty(value, function, values_of, depth + 1) for value in values):
            return True
        # A list that is filled outside of all branches is not empty
        return any(_appends(statement, node.id, values_of) for statement in getattr(function, "body", []))
    return False


def _appends(statement: ast.stmt, name: str, values_of: ValuesOf) -> bool:
    if isinstance(statement, ast.For):
        filled = _never_empty(statement.iter, ast.Module([], []), values_of)
        return filled and any(_appends(one, name, values_of) for one in statement.body)
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "append"
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == name
    )


def _wrapped(node: ast.expr) -> ast.expr | None:
    """Collection from which an expression builds another one with the same number of members; None if there is none."""
    if isinstance(node, ast.List | ast.Tuple) and len(node.elts) == 1 and isinstance(node.elts[0], ast.Starred):
        return node.elts[0].value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
        return node.args[0] if node.func.id in ("list", "tuple", "sorted", "reversed", "set") else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        return node.func.value if node.func.attr in ("values", "keys", "items", "copy") else None
    return None


def _feeders(node: ast.expr, function: ast.AST, depth: int = 0) -> set[str]:
    """Source texts of the names, attributes and items that make the list empty if they are empty."""
    names = {node.id} if isinstance(node, ast.Name) else set()
    values = [node, *(_assignments(node.id, function) if isinstance(node, ast.Name) else [])]
    for value in values:
        inner = _wrapped(value)
        if inner is not None and depth < 4:
            names |= _feeders(inner, function, depth + 1)
        elif (
            isinstance(value, ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp)
            and len(value.generators) == 1
            and not value.generators[0].ifs
        ):
            fed = nodes(value.generators[0].iter)
            names |= {ast.unparse(one) for one in fed if isinstance(one, ast.Name | ast.Attribute | ast.Subscript)}
    return names


def _guarded(name: str, call: ast.expr, function: Function, parents: dict[ast.AST, ast.AST]) -> bool:
    """True if the call is reached only when `name` has elements."""
    node: ast.AST = call
    empty: set[str] = set()
    while node is not function:
        parent = parents[node]
        if isinstance(parent, ast.If | ast.While | ast.IfExp) and node is not parent.test:
            body = parent.body if isinstance(parent.body, list) else [parent.body]
            if _truth(parent.test, name, empty) is (node in body):
                return True
            if node in body and isinstance(parent.test, ast.UnaryOp) and isinstance(parent.test.op, ast.Not):
                empty.add(ast.unparse(parent.test.operand))
        for field in ("body", "orelse", "finalbody"):
            block = getattr(parent, field, None)
            if isinstance(block, list) and node in block:
                for earlier in block[: block.index(node)]:
                    if isinstance(earlier, ast.If) and _truth(earlier.test, name) is False and _leaves(earlier.body):
                        return True
                    if isinstance(earlier, ast.Assert) and _truth(earlier.test, name):
                        return True
        node = parent
    return False


def _is_written_empty(node: ast.expr) -> bool:
    return (isinstance(node, ast.List | ast.Tuple) and not node.elts) or (isinstance(node, ast.Dict) and not node.keys)


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def _truth(test: ast.expr, name: str, empty: Collection[str] = ()) -> bool | None:
    """Meaning of a test for `name`, given that the names in `empty` are empty.

    True if it passes only when `name` has elements. False if it passes only when `name` is empty. None if unknown.
    """
    if isinstance(test, ast.Name | ast.Attribute | ast.Subscript):
        return True if ast.unparse(test) == name else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, name)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or):
        rest = [value for value in test.values if ast.unparse(value) not in empty]
        return True if rest and all(_truth(value, name) for value in rest) else None
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return True if any(_truth(value, name) for value in test.values) else None
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "len" and test.args:
        return _truth(test.args[0], name)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and _truth(test.left, name):
        right = test.comparators[0]
        zero = (isinstance(right, ast.Constant) and right.value == 0) or _is_written_empty(right)
        one = isinstance(right, ast.Constant) and right.value == 1
        if (isinstance(test.ops[0], ast.Gt | ast.NotEq) and zero) or (isinstance(test.ops[0], ast.GtE) and one):
            return True
        if (isinstance(test.ops[0], ast.Eq | ast.LtE) and zero) or (isinstance(test.ops[0], ast.Lt) and one):
            return False
    return None
