"""Decisions based on `is_replaying` that affect more than logging."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from bridge.lint.contexts import WAITING_CALLS
from bridge.lint.finding import Finding
from bridge.lint.module import Function, changed, local_names
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.tree import children, nodes
from bridge.lint.tree import parents as parents_in

RULE = "replaying"
REMEDY = "do it in every turn; the SDK skips completed work"
ACTIONS = WAITING_CALLS | {"continue_as_new", "new_uuid", "send_event", "signal_entity"}
"""Methods of the context that change an orchestration's behaviour."""

WORKFLOW_ACTIONS = frozenset({"continue_as_new", "publish", "request", "wait_for_message"})
"""Functions of bridge.workflow that change an orchestration's behaviour."""


def replaying(project: Project, reached: Reached) -> Iterator[Finding]:
    """Findings in one function that an orchestrator runs."""
    if not reached.module.mentions_replaying and not any(
        module.mentions_replaying for module in project.modules.values() if module is not None
    ):
        return
    decisions = _Decisions(project, reached)
    for node in nodes(reached.function):
        place = decisions.decision(node)
        if place is not None:
            yield finding_at(reached, place, RULE, "a replay takes another path than the first run", REMEDY)


class _Decisions:
    def __init__(self, project: Project, reached: Reached) -> None:
        self._project = project
        self._reached = reached
        self._contexts = project.context_names(reached)
        self._parents = parents_in(reached.function)
        self._local = local_names(reached.function)
        # Names of values derived from is_replaying: a boolean, a number, a choice between two names
        self._named: set[str] = set()
        for node in nodes(reached.function):
            if isinstance(node, ast.Assign) and self._asks(node.value):
                self._named |= {target.id for target in node.targets if isinstance(target, ast.Name)}

    def decision(self, node: ast.AST) -> ast.AST | None:
        """First effect that a replay alone has, or lacks, because of this node; None if there is none."""
        if isinstance(node, ast.If | ast.While) and self._asks(node.test):
            return self._first_effect([*node.body, *node.orelse], node)
        if isinstance(node, ast.IfExp) and self._asks(node.test):
            return self._first_effect([node.body, node.orelse], node) or (node if self._is_used(node) else None)
        if isinstance(node, ast.BoolOp) and self._asks(node.values[0]):
            return self._first_effect(node.values[1:], node)
        if isinstance(node, ast.Match) and self._asks(node.subject):
            return self._first_effect([one for case in node.cases for one in case.body], node)
        if isinstance(node, ast.Assert) and self._asks(node.test):
            return node
        if isinstance(node, ast.comprehension) and any(self._asks(test) for test in node.ifs):
            holder = self._parents[node]
            return next((one for one in nodes(holder) if self._is_action(one)), None)
        return node if self._is_it(node) and self._is_handed_on(node) else None

    def _asks(self, test: ast.AST) -> bool:
        """True if an expression depends on `is_replaying`, by name or through a helper."""
        for node in nodes(test):
            if self._is_it(node):
                return True
            if isinstance(node, ast.Call):
                callee = self._project.callee(self._reached.module, node)
                if callee is not None and _answers(callee):
                    return True
        return False

    def _is_it(self, node: ast.AST) -> bool:
        """True if a node reads `is_replaying`, or a name that holds a value derived from it."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            asked = node.args[1] if len(node.args) > 1 else None
            return isinstance(asked, ast.Constant) and asked.value == "is_replaying"
        if isinstance(node, ast.Name):
            return isinstance(node.ctx, ast.Load) and node.id in self._named
        return isinstance(node, ast.Attribute) and node.attr == "is_replaying" and isinstance(node.ctx, ast.Load)

    def _first_effect(self, branch: Iterable[ast.AST], decided: ast.AST) -> ast.AST | None:
        inside = [node for each in branch for node in _own(each)]
        bound = {node.id for node in inside if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        within = {id(node) for node in nodes(decided)}
        read_later = {
            node.id
            for node in nodes(self._reached.function)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in within
        }
        for node in sorted(inside, key=lambda one: (getattr(one, "lineno", 0), getattr(one, "col_offset", 0))):
            if self._counts(node, decided, within):
                return node
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in read_later:
                return node
            if (name := changed(node)) in self._local and name not in bound:
                return node
        return None

    def _counts(self, node: ast.AST, decided: ast.AST, within: set[int]) -> bool:
        """True if a statement or an expression does more than log."""
        if isinstance(node, ast.Return) and (node.value is None or _is_none(node.value)):
            return self._goes_on(decided)
        if isinstance(node, ast.Break | ast.Continue):
            return not self._loops_inside(node, within)
        return isinstance(node, ast.Return | ast.Raise | ast.Global | ast.Nonlocal) or self._is_action(node)

    def _goes_on(self, decided: ast.AST) -> bool:
        """True if code with an effect follows an early return."""
        end = getattr(decided, "end_lineno", 0) or 0
        return any(
            getattr(node, "lineno", 0) > end
            and (self._is_action(node) or (isinstance(node, ast.Return) and node.value is not None))
            for node in nodes(self._reached.function)
        )

    def _loops_inside(self, node: ast.AST, within: set[int]) -> bool:
        parent = self._parents.get(node)
        while parent is not None and not isinstance(parent, ast.For | ast.While):
            parent = self._parents.get(parent)
        decides = isinstance(parent, ast.While) and self._asks(parent.test)
        return parent is not None and id(parent) in within and not decides

    def _is_action(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Attribute) and node.func.attr in ACTIONS:
            base = node.func.value
            return isinstance(base, ast.Name) and base.id in self._contexts
        root, _, last = (self._reached.module.resolve(node.func) or "").rpartition(".")
        return last in WORKFLOW_ACTIONS and root.startswith("bridge.workflow")

    def _is_used(self, node: ast.AST) -> bool:
        """True if the value of a choice is used outside a plain call such as a log call."""
        parent = self._parents.get(node)
        while isinstance(parent, ast.expr | ast.keyword) and not isinstance(
            parent, ast.Call | ast.Yield | ast.YieldFrom
        ):
            parent = self._parents.get(parent)
        if isinstance(parent, ast.Call):
            return self._is_action(parent)
        return isinstance(parent, ast.Return) and self._reached.is_orchestrator

    def _is_handed_on(self, node: ast.AST) -> bool:
        """True if `is_replaying` itself is an argument of a durable call, or the orchestration's result."""
        parent = self._parents.get(node)
        while isinstance(parent, ast.expr | ast.keyword) and not isinstance(parent, ast.IfExp):
            if isinstance(parent, ast.Call) and self._is_action(parent):
                return True
            parent = self._parents.get(parent)
        return isinstance(parent, ast.Return) and self._reached.is_orchestrator and not _answers(self._reached.function)


def _own(root: ast.AST) -> Iterator[ast.AST]:
    """Nodes of the tree without those of nested functions."""
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, Function | ast.Lambda):
            stack += children(node)


def _answers(function: Function) -> bool:
    """True if a plain function only returns whether a replay is running."""
    body = [one for one in function.body if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))]
    return (
        len(body) == 1
        and isinstance(body[0], ast.Return)
        and body[0].value is not None
        and _is_truth(body[0].value)
        and any(isinstance(node, ast.Attribute) and node.attr == "is_replaying" for node in nodes(body[0]))
    )


def _is_truth(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_truth(node.operand)
    return isinstance(node, ast.Attribute | ast.Compare | ast.BoolOp)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
