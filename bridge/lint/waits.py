"""Waits that never end, are never begun, or take an event from a later one."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from bridge.lint.contexts import WAITING_CALLS, is_generator
from bridge.lint.finding import Finding
from bridge.lint.lists import empty_groups
from bridge.lint.module import Function, Module
from bridge.lint.place import found
from bridge.lint.project import Project, Reach, Reached
from bridge.lint.race import lost_waits
from bridge.lint.tree import calls_in, nodes
from bridge.lint.tree import parents as parents_in

GENERATORS = frozenset({"bridge.workflow.request", "bridge.workflow.request.request"})
TASKS = frozenset({"bridge.workflow.publish", "bridge.workflow.publishing.publish"})
SAGA_METHODS = frozenset(["step", "sequence", "parallel", "run", "wait_for_event"])
HEARING = frozenset({"bridge.workflow.Inbox", "bridge.workflow.wait_for_message"})
COMPOSITES = ("CompositeTask", "WhenAnyTask", "WhenAllTask")

USED_AS_VALUE = (ast.BinOp, ast.BoolOp, ast.Compare, ast.Subscript, ast.UnaryOp)


def waits(project: Project, reach: Reach) -> Iterator[Finding]:
    """Findings in everything that one orchestrator runs."""
    events = Counter(
        ast.dump(call.args[0])
        for reached in reach.functions
        for call in nodes(reached.function)
        if isinstance(call, ast.Call) and call.args and _method(call) == "wait_for_external_event"
    )
    made = ((reached.module, call) for reached in reach.functions for call in calls_in(reached.function))
    heard = bool(events) or any(module.resolve(call.func) in HEARING for module, call in made)
    for reached in reach.functions:
        names = project.context_names(reached)
        yield from _missing_yields(project, reached, names)
        yield from _continued(reached, names, heard=heard)
        yield from empty_groups(project, reached)
        for function in (node for node in nodes(reached.function) if isinstance(node, Function)):
            repeated = reached.calls > 1
            for wait in lost_waits(reached.module, function, events, repeated=repeated):
                what = "this wait may lose against another task and is never cancelled"
                remedy = "call cancel() on it when something else wins"
                yield found(reached, wait, "losing-wait", what, remedy)


def callbacks(module: Module) -> Iterator[Finding]:
    """Durable calls in callbacks of composite tasks, wherever in a module."""
    composites: set[str] = set()
    for node in nodes(module.tree):
        if not isinstance(node, ast.ClassDef) or not any(
            (module.resolve(base) or "").rpartition(".")[2] in (*COMPOSITES, *composites) for base in node.bases
        ):
            continue
        composites.add(node.name)
        # What is made for the constructor is made in the orchestrator's own turn
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


def _missing_yields(project: Project, reached: Reached, contexts: set[str]) -> Iterator[Finding]:
    function, module = reached.function, reached.module
    parents = parents_in(function)
    loaded = {node.id for node in nodes(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    nested = {node.name: node for node in nodes(function) if isinstance(node, Function)}
    sagas = _saga_names(module, function)
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
        elif isinstance(parent, ast.Expr):
            what = f"nobody waits for {name}()"
        elif isinstance(parent, USED_AS_VALUE) or (isinstance(parent, ast.If | ast.While) and parent.test is call):
            what = f"{name}() is used as if it were its result"
        elif (
            isinstance(parent, ast.Assign)
            and all(isinstance(target, ast.Name) for target in parent.targets)
            and not any(isinstance(target, ast.Name) and target.id in loaded for target in parent.targets)
        ):
            what = f"nobody waits for {name}()"
        else:
            continue
        yield found(reached, call, "missing-yield", what, f"write `{word} {name}(...)`")


def _kind(
    project: Project,
    reached: Reached,
    call: ast.Call,
    contexts: set[str],
    sagas: set[str],
    nested: dict[str, Function],
) -> str | None:
    """Whether a call makes a `task` or a `generator`; None for anything else."""
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
    return "generator" if callee is not None and isinstance(callee, ast.FunctionDef) and is_generator(callee) else None


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


def _continued(reached: Reached, contexts: set[str], *, heard: bool) -> Iterator[Finding]:
    for call in calls_in(reached.function):
        if (
            heard
            and _method(call) == "continue_as_new"
            and isinstance(call.func, ast.Attribute)
            and _last(call.func.value) in contexts
            and not any(keyword.arg in ("save_events", None) for keyword in call.keywords)
        ):
            what = "events that have arrived and were not read are lost here"
            yield found(
                reached, call, "continue-as-new", what, "pass save_events=True (or False, if they shall be lost)"
            )
