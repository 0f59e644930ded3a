"""`when_all` of a list that may be empty."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from bridge.lint.finding import Finding
from bridge.lint.module import Function
from bridge.lint.place import found
from bridge.lint.project import Reached
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in


def empty_groups(reached: Reached) -> Iterator[Finding]:
    """`when_all` of lists that may be empty."""
    function, module = reached.function, reached.module
    parents = parents_in(function)
    for call in calls_in(function):
        name = module.resolve(call.func) or ""
        if not name.startswith("durabletask.") or name.rpartition(".")[2] != "when_all" or not call.args:
            continue
        argument = call.args[0]
        names = {argument.id} if isinstance(argument, ast.Name) else set()
        if _never_empty(argument, function) or any(
            _guarded(name, call, function, parents) for name in _feeders(argument, function) | names
        ):
            continue
        what = "the list may be empty, and then this never completes"
        yield found(reached, call, "empty-when-all", what, "wait only `if tasks:`")


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


def _never_empty(node: ast.expr, function: ast.AST, depth: int = 0) -> bool:
    """Whether a list has an element for sure."""
    if depth > 4:
        return False
    if isinstance(node, ast.List | ast.Tuple):
        return any(
            not isinstance(element, ast.Starred) or _never_empty(element.value, function, depth + 1)
            for element in node.elts
        )
    if isinstance(node, ast.ListComp | ast.GeneratorExp):
        return all(not one.ifs and _never_empty(one.iter, function, depth + 1) for one in node.generators)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            first = node.args[0] if node.args else None
            return len(node.args) == 1 and isinstance(first, ast.Constant) and bool(first.value)
        if isinstance(node.func, ast.Name) and node.func.id in ("list", "tuple", "sorted", "enumerate", "reversed"):
            return bool(node.args) and _never_empty(node.args[0], function, depth + 1)
        return False
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _never_empty(node.left, function, depth + 1) or _never_empty(node.right, function, depth + 1)
    if isinstance(node, ast.Constant):
        return bool(node.value)
    if isinstance(node, ast.Name):
        values = _assignments(node.id, function)
        if values and all(_never_empty(value, function, depth + 1) for value in values):
            return True
        # A list that is filled outside of any loop or branch has something in it.
        return any(_appends(statement, node.id) for statement in getattr(function, "body", []))
    return False


def _appends(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.For):
        return _never_empty(statement.iter, ast.Module([], [])) and any(_appends(one, name) for one in statement.body)
    call = statement.value if isinstance(statement, ast.Expr) else None
    return (
        isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "append"
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == name
    )


def _feeders(node: ast.expr, function: ast.AST) -> set[str]:
    """Names whose emptiness makes the list empty."""
    names: set[str] = set()
    values = [node, *(_assignments(node.id, function) if isinstance(node, ast.Name) else [])]
    for value in values:
        if (
            isinstance(value, ast.ListComp | ast.GeneratorExp)
            and len(value.generators) == 1
            and not value.generators[0].ifs
        ):
            names |= {one.id for one in nodes(value.generators[0].iter) if isinstance(one, ast.Name)}
    return names


def _guarded(name: str, call: ast.Call, function: Function, parents: dict[ast.AST, ast.AST]) -> bool:
    """Whether the call is reached only when `name` has elements."""
    node: ast.AST = call
    while node is not function:
        parent = parents[node]
        if isinstance(parent, ast.If | ast.While | ast.IfExp) and node is not parent.test:
            body = parent.body if isinstance(parent.body, list) else [parent.body]
            if _truth(parent.test, name) is (node in body):
                return True
        for field in ("body", "orelse", "finalbody"):
            block = getattr(parent, field, None)
            if isinstance(block, list) and node in block:
                for earlier in block[: block.index(node)]:
                    if isinstance(earlier, ast.If) and _truth(earlier.test, name) is False and _leaves(earlier.body):
                        return True
        node = parent
    return False


def _leaves(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def _truth(test: ast.expr, name: str) -> bool | None:
    """True when the test passes only with elements, False when it passes only without, None when it does not say."""
    if isinstance(test, ast.Name):
        return True if test.id == name else None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, name)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return True if any(_truth(value, name) for value in test.values) else None
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "len" and test.args:
        return _truth(test.args[0], name)
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and _truth(test.left, name):
        right = test.comparators[0]
        zero = isinstance(right, ast.Constant) and right.value == 0
        one = isinstance(right, ast.Constant) and right.value == 1
        if (isinstance(test.ops[0], ast.Gt | ast.NotEq) and zero) or (isinstance(test.ops[0], ast.GtE) and one):
            return True
        if (isinstance(test.ops[0], ast.Eq | ast.LtE) and zero) or (isinstance(test.ops[0], ast.Lt) and one):
            return False
    return None
