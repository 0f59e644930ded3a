"""Waits that never end, never start, or take an event from a later wait."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from bridge.lint.contexts import WAITING_CALLS, is_generator
from bridge.lint.finding import Finding
from bridge.lint.lists import empty_groups
from bridge.lint.module import Function, Module
from bridge.lint.project import Project, Reached, finding_at
from bridge.lint.race import lost_waits
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in

GENERATORS = frozenset({"bridge.workflow.request", "bridge.workflow.publishing.request"})
TASKS = frozenset({"bridge.workflow.publish", "bridge.workflow.publishing.publish"})
SAGA_METHODS = frozenset(["step", "sequence", "parallel", "run", "wait_for_event"])
HEARING = frozenset({"bridge.workflow.Inbox", "bridge.workflow.wait_for_message"})
COMPOSITES = ("CompositeTask", "WhenAnyTask", "WhenAllTask")

NOT_WAITING = frozenset(
    ["append", "extend", "get_exception", "get_result", "insert", "is_complete", "is_failed", "is_cancelled"]
)
"""Attributes of a task, or of a list of tasks, that wait for nothing."""

LOGS = frozenset(["critical", "debug", "error", "exception", "info", "log", "warning"])
PLAIN = frozenset(["bool", "id", "isinstance", "len", "print", "repr", "str", "type"])
"""Methods (LOGS) and functions (PLAIN) that have no effect on a task."""

HOLDERS = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.DictComp)
USED_AS_VALUE = (ast.BinOp, ast.BoolOp, ast.Compare, ast.Subscript, ast.UnaryOp)


def waits(project: Project, functions: Sequence[Reached], helpers: Collection[int] = ()) -> Iterator[Finding]:
    """Findings in all functions that one orchestrator runs. helpers: ids of functions that other functions call."""
    events = Counter(
        ast.dump(call.args[0])
        for reached in functions
        for call in nodes(reached.function)
        if isinstance(call, ast.Call) and call.args and _method(call) == "wait_for_external_event"
    )
    made = ((reached.module, call) for reached in functions for call in calls_in(reached.function))
    awaited = bool(events) or any(module.resolve(call.func) in HEARING for module, call in made)
    for reached in functions:
        names = project.context_names(reached)
        yield from _missing_yields(project, reached, names, helpers)
        yield from _continued(reached, names, awaited=awaited)
        yield from empty_groups(project, reached)
        for function in (node for node in nodes(reached.function) if isinstance(node, Function)):
            repeated = reached.calls > 1
            for wait in lost_waits(reached.module, function, events, repeated=repeated):
                what = "this wait may lose against another task and is never cancelled"
                remedy = "call cancel() on it when another task wins"
                yield finding_at(reached, wait, "losing-wait", what, remedy)


def callbacks(module: Module) -> Iterator[Finding]:
    """Findings for durable calls in callbacks of composite tasks, anywhere in a module."""
    composites: set[str] = set()
    for node in nodes(module.tree):
        if not isinstance(node, ast.ClassDef) or not any(
            (module.resolve(base) or "").rpartition(".")[2] in (*COMPOSITES, *composites) for base in node.bases
        ):
            continue
        composites.add(node.name)
        # The constructor runs in the orchestrator's own turn
        methods = [one for one in node.body if not (isinstance(one, Function) and one.name == "__init__")]
        for call in (call for method in methods for call in nodes(method)):
            if isinstance(call, ast.Call) and _method(call) in WAITING_CALLS:
                what = f"{_method(call)}() in a callback of a composite task"
                remedy = "loop with `yield task.when_any(...)` in a generator instead"
                yield Finding(str(module.path), call.lineno, call.col_offset + 1, "rearmed-wait", what, remedy)


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _missing_yields(
    project: Project, reached: Reached, contexts: set[str], helpers: Collection[int]
) -> Iterator[Finding]:
    function, module = reached.function, reached.module
    parents = parents_in(function)
    nested = {node.name: node for node in nodes(function) if isinstance(node, Function)}
    sagas = _saga_names(module, function)
    uses = _Uses(reached, parents, ends=reached.is_orchestrator and id(function) not in helpers)
    for call in calls_in(function):
        kind = _kind(project, reached, call, contexts, sagas, nested)
        if kind is None:
            continue
        parent = parents.get(call)
        word = "yield" if kind == "task" else "yield from"
        name = _last(call.func)
        if isinstance(parent, ast.Yield) and kind == "generator":
            what = f"{name}() is a generator, and is yielded as if it were a task"
        elif isinstance(parent, ast.YieldFrom) and kind == "task":
            what = f"{name}() is a task, and `yield from` is for generators"
        elif isinstance(parent, USED_AS_VALUE) or (isinstance(parent, ast.If | ast.While) and parent.test is call):
            what = f"{name}() is used as if it were its result"
        elif uses.is_returned(call) and (kind == "task" or is_generator(function)):
            what = f"{name}() is returned without a wait for its result"
        elif isinstance(parent, ast.Expr) or uses.forgets(call, kind):
            what = f"there is no wait for the result of {name}()"
        else:
            continue
        yield finding_at(reached, call, "missing-yield", what, f"write `{word} {name}(...)`")


class _Uses:
    """Uses of tasks in a function. ends: the function's result is the orchestration's result, not that of a helper."""

    def __init__(self, reached: Reached, parents: dict[ast.AST, ast.AST], *, ends: bool) -> None:
        self._function = reached.function
        self._parents = parents
        self._ends = ends
        self._loads: dict[str, list[ast.Name]] = {}
        for node in nodes(reached.function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self._loads.setdefault(node.id, []).append(node)

    def ends(self, node: ast.AST) -> bool:
        """True if a `return` ends the orchestration."""
        parent = self._parents.get(node)
        while parent is not None and not isinstance(parent, Function | ast.Lambda):
            parent = self._parents.get(parent)
        return self._ends and parent is self._function

    def is_returned(self, node: ast.AST) -> bool:
        """True if a value is the orchestration's result, or part of it."""
        parent = self._parents.get(node)
        while isinstance(parent, HOLDERS):
            parent = self._parents.get(parent)
        return isinstance(parent, ast.Return) and self.ends(parent)

    def is_unread(self, assigned: ast.Assign) -> bool:
        """True if the assigned names are never read."""
        targets = assigned.targets
        plain = all(isinstance(target, ast.Name) for target in targets)
        return plain and not any(isinstance(target, ast.Name) and target.id in self._loads for target in targets)

    def forgets(self, made: ast.expr, kind: str) -> bool:
        """True if a task gets a name, or a place in a named list, and no code waits for that name."""
        node: ast.AST = made
        parent = self._parents.get(node)
        if kind == "generator":
            return isinstance(parent, ast.Assign) and self.is_unread(parent)
        while isinstance(parent, ast.IfExp) and parent.test is not node:
            node, parent = parent, self._parents.get(parent)
        while isinstance(
            parent, ast.List | ast.Tuple | ast.ListComp | ast.Dict | ast.DictComp
        ) and not self._is_unpacked(parent):
            node, parent = parent, self._parents.get(parent)
        if isinstance(parent, ast.Expr):
            return True
        if isinstance(parent, ast.Assign) and parent.value is node:
            bases = [one.value if isinstance(one, ast.Subscript) else one for one in parent.targets]
            given = _parameters(self._function)
            names = [one.id for one in bases if isinstance(one, ast.Name) and one.id not in given]
            return len(names) == len(parent.targets) and not any(self._waits(name) for name in names)
        if isinstance(parent, ast.AnnAssign) and isinstance(parent.target, ast.Name):
            return not self._waits(parent.target.id)
        if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and parent.func.attr == "append":
            base = parent.func.value
            local = isinstance(base, ast.Name) and base.id not in _parameters(self._function)
            return isinstance(base, ast.Name) and local and not self._waits(base.id)
        return False

    def _is_unpacked(self, node: ast.AST) -> bool:
        parent = self._parents.get(node)
        return isinstance(parent, ast.Assign) and any(isinstance(one, ast.Tuple | ast.List) for one in parent.targets)

    def _waits(self, name: str) -> bool:
        return any(self._passes_on(node) for node in self._loads.get(name, ()))

    def _passes_on(self, node: ast.AST) -> bool:
        """True if a use waits for the task, cancels it, or passes it to code that may."""
        parent = self._parents.get(node)
        if isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store | ast.Del):
            return False
        if self.is_returned(node):
            return False
        if isinstance(parent, ast.Attribute):
            return parent.attr not in NOT_WAITING
        if isinstance(parent, ast.keyword):
            parent = self._parents.get(parent)
        if isinstance(parent, ast.Call):
            name = _last(parent.func)
            return name not in (LOGS if isinstance(parent.func, ast.Attribute) else PLAIN)
        if isinstance(parent, ast.Return):
            return not self.ends(parent)
        if isinstance(parent, ast.If | ast.While | ast.IfExp):
            return not (isinstance(parent, ast.IfExp) and parent.test is node) and isinstance(parent, ast.IfExp)
        return not isinstance(parent, ast.UnaryOp | ast.Compare | ast.FormattedValue | ast.Expr)


def _parameters(function: Function) -> set[str]:
    return {one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)}


def _kind(
    project: Project,
    reached: Reached,
    call: ast.Call,
    contexts: set[str],
    sagas: set[str],
    nested: dict[str, Function],
) -> str | None:
    """Kind of object that a call creates: `task`, `generator`, or None for anything else."""
    if isinstance(call.func, ast.Attribute):
        base = _last(call.func.value)
        if base in contexts and call.func.attr in WAITING_CALLS:
            return "task"
        if base in sagas and call.func.attr in SAGA_METHODS:
            return "generator"
    name = reached.module.resolve(call.func) or ""
    if name in TASKS or (name.startswith("durabletask.") and name.rpartition(".")[2] in ("when_all", "when_any")):
        return "task"
    if name in GENERATORS:
        return "generator"
    callee = nested.get(call.func.id) if isinstance(call.func, ast.Name) else None
    callee = callee or project.callee(reached.module, call)
    if callee is None or not isinstance(callee, ast.FunctionDef):
        return None
    return "generator" if is_generator(callee) else "task" if _returns_task(callee) else None


def _returns_task(function: ast.FunctionDef) -> bool:
    """True if a plain function returns only results of durable calls."""
    values = [node.value for node in nodes(function) if isinstance(node, ast.Return)]
    return bool(values) and all(
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in WAITING_CALLS
        for value in values
    )


def _saga_names(module: Module, function: Function) -> set[str]:
    """Names that hold a Saga or a Scope."""
    names = set()
    for node in nodes(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if (module.resolve(node.value.func) or "").startswith("bridge.workflow.") and _last(
                node.value.func
            ) == "Saga":
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.arg) and node.annotation is not None:
            text = (
                node.annotation.value if isinstance(node.annotation, ast.Constant) else module.resolve(node.annotation)
            )
            if isinstance(text, str) and text.rpartition(".")[2] in ("Saga", "Scope"):
                names.add(node.arg)
    return names


def _continued(reached: Reached, contexts: set[str], *, awaited: bool) -> Iterator[Finding]:
    for call in calls_in(reached.function):
        if (
            awaited
            and _method(call) == "continue_as_new"
            and isinstance(call.func, ast.Attribute)
            and _last(call.func.value) in contexts
            and not any(keyword.arg in ("save_events", None) for keyword in call.keywords)
        ):
            what = "unread events are lost here"
            yield finding_at(reached, call, "continue-as-new", what, "pass save_events=True, or False to lose them")
