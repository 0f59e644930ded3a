"""Event waits that can lose in `when_any`, stay active, and consume an event meant for a later wait."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from bridge.lint.module import Function, Module
from bridge.lint.tree import calls_in, children, nodes


def lost_waits(module: Module, function: Function, events: Counter[str], *, repeated: bool) -> Iterator[ast.Call]:
    """Waits of the function itself that can lose without being cancelled, while their event is awaited again.

    events: number of waits by event name, in all functions that the orchestrator runs.
    repeated: the function is called more than once.
    """
    if not any(_is_when_any(module, call) for call in calls_in(function)):
        return
    placed = list(_own(function, in_loop=False))
    races = [node for node, _ in placed if isinstance(node, ast.Call) and _is_when_any(module, node)]
    if not races:
        return
    lists = {
        target.id: node.value
        for node, _ in placed
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value, ast.List)
    }
    racing: dict[str, list[ast.Call]] = {}
    for race in races:
        for argument in race.args:
            members = lists.get(argument.id, argument) if isinstance(argument, ast.Name) else argument
            for inner in nodes(members):
                if isinstance(inner, ast.Name):
                    racing.setdefault(inner.id, []).append(race)
    inline = {id(inner) for race in races for inner in nodes(race) if _is_wait(inner)}
    for node, in_loop in placed:
        again = in_loop or repeated
        if isinstance(node, ast.Call) and id(node) in inline:
            if (again or _shared(node, events)) and not _ends(placed, None):
                yield node
        elif isinstance(node, ast.Assign) and _is_wait(node.value) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            assert isinstance(node.value, ast.Call)
            if name in racing and (again or _shared(node.value, events)) and not _handled(placed, name, races):
                yield node.value


def _own(function: Function, in_loop: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Nodes of the function in order, without those of nested functions, each with True if it is in a loop."""
    stack: list[tuple[ast.AST, bool]] = [(node, in_loop) for node in reversed(function.body)]
    while stack:
        node, inside = stack.pop()
        yield node, inside
        if isinstance(node, Function | ast.Lambda | ast.ClassDef):
            continue
        deeper = inside or isinstance(node, ast.For | ast.While)
        stack += [(child, deeper) for child in reversed(children(node))]


def _is_when_any(module: Module, node: ast.Call) -> bool:
    name = module.resolve(node.func) or ""
    return name.startswith("durabletask.") and name.rpartition(".")[2] == "when_any"


def _is_wait(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "wait_for_external_event"
    )


def _shared(wait: ast.Call, events: Counter[str]) -> bool:
    return bool(wait.args) and events[ast.dump(wait.args[0])] > 1


def _handled(placed: list[tuple[ast.AST, bool]], name: str, races: list[ast.Call]) -> bool:
    """True if the wait is cancelled, awaited again, or passed to another function."""
    for node, _ in placed:
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "cancel" and _names(node.func.value, name):
                return True
            if node not in races and any(_names(argument, name) for argument in node.args):
                return True
        elif isinstance(node, ast.Yield | ast.Return) and node.value is not None and _names(node.value, name):
            return True
    return _ends(placed, name)


def _ends(placed: list[tuple[ast.AST, bool]], name: str | None) -> bool:
    """True if the function or the loop exits wherever the wait has lost."""
    for node, _inside in placed:
        if not isinstance(node, ast.If):
            continue
        lost = _branch_without(node, name)
        if lost and isinstance(lost[-1], ast.Return | ast.Raise | ast.Break):
            return True
    return False


def _branch_without(node: ast.If, name: str | None) -> list[ast.stmt]:
    """Statements that run when a task other than `name` has won; empty if the test does not decide this."""
    test, negated = node.test, False
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test, negated = test.operand, True
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        sides = [side.id for side in (test.left, test.comparators[0]) if isinstance(side, ast.Name)]
        if len(sides) != 2:
            return []
        differs = isinstance(test.ops[0], ast.IsNot | ast.NotEq) != negated
        won = (name in sides) != differs
        return node.orelse if won else node.body
    if isinstance(test, ast.Attribute) and test.attr == "is_complete" and isinstance(test.value, ast.Name):
        won = (test.value.id == name) != negated
        return node.orelse if won else node.body
    return []


def _names(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
