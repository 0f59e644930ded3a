"""Durable calls in the source of orchestrators, as far as they can be counted without running them."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bridge.lint.contexts import orchestrators
from bridge.lint.module import Function, Module
from bridge.lint.project import Project, Reached, calls, files

ACTIVITY, ANSWER, CHILD, TIMER, EVENT, ENTITY_CALL, SIGNAL, LOCK = (
    "activity", "answer", "child orchestration", "timer", "event", "call of an entity", "signal to an entity",
    "entity lock",
)  # fmt: skip
"""Kinds of durable calls. ANSWER: the event that answers a request or a command."""

_METHODS = {
    "call_activity": ACTIVITY,
    "call_sub_orchestrator": CHILD,
    "create_timer": TIMER,
    "wait_for_external_event": EVENT,
    "call_entity": ENTITY_CALL,
    "signal_entity": SIGNAL,
    "lock_entities": LOCK,
}
"""Methods of the orchestration context."""

_FUNCTIONS: dict[str, tuple[str, ...]] = {
    "publish": (ACTIVITY,),
    "request": (ACTIVITY, ANSWER),
    "wait_for_message": (EVENT,),
    "Step": (ACTIVITY,),
}
"""Functions and classes of bridge.workflow."""


@dataclass
class DurableCalls:
    """Durable calls of one orchestrator and the functions that it calls.

    once: number of calls by kind that stand outside of loops. Each counts once, also in a branch that may not run.
    repeated: number of calls by kind that a loop, or several callers, may repeat.
    children: names of child orchestrations, as far as they are constant.
    """

    once: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    children: list[str] = field(default_factory=list)


def durable_calls(paths: Sequence[Path]) -> dict[str, DurableCalls]:
    """Durable calls of the registered orchestrators in the files at and below the paths, by name.

    Files that cannot be parsed are left out. Raises: LookupError for a path that does not exist.
    """
    project = Project()
    modules = []
    for path in files(list(paths)):
        try:
            module = Module.read(path)
        except (SyntaxError, ValueError, OSError):
            continue
        project.add(module)
        modules.append(module)
    return {
        each.function.name: _counted(project, module, each.function)
        for module in modules
        for each in orchestrators(project, module)
        if each.registered
    }


def _counted(project: Project, module: Module, orchestrator: Function) -> DurableCalls:
    found = DurableCalls()
    for reached in project.reach(module, orchestrator):
        contexts = project.context_names(reached)
        several = reached.calls > 1
        for call, in_loop in calls(reached.function):
            for kind in _kinds(reached, call, contexts):
                (found.repeated if in_loop or several else found.once)[kind] += 1
                if kind == CHILD and (name := _child(call)) is not None:
                    found.children.append(name)
    return found


def _kinds(reached: Reached, call: ast.Call, contexts: set[str]) -> tuple[str, ...]:
    called = call.func
    if isinstance(called, ast.Attribute) and called.attr == "wait_for_event":
        return (EVENT,)  # of a saga
    if isinstance(called, ast.Attribute) and called.attr in _METHODS:
        return (_METHODS[called.attr],) if isinstance(called.value, ast.Name) and called.value.id in contexts else ()
    name = reached.module.resolve(called) or ""
    root, _, last = name.rpartition(".")
    if not root.startswith("bridge.workflow"):
        return ()
    if last == "Step":
        return _step(reached, call)
    if last == "Saga":
        return (ACTIVITY,) if any(each.arg == "publish_outcome" for each in call.keywords) else ()
    return _FUNCTIONS.get(last, ())


def _step(reached: Reached, call: ast.Call) -> tuple[str, ...]:
    """Kinds of a step's action: an activity, a command with or without an answer, or a child."""
    given = [each.value for each in call.keywords if each.arg == "action"] + call.args[1:2]
    action = given[0] if given else None
    if not isinstance(action, ast.Call):
        return (ACTIVITY,)
    last = (reached.module.resolve(action.func) or "").rpartition(".")[2]
    if last == "Child":
        return (CHILD,)
    if last == "Command":
        return (ACTIVITY, ANSWER) if any(each.arg == "reply_to" for each in action.keywords) else (ACTIVITY,)
    return (ACTIVITY,)


def _child(call: ast.Call) -> str | None:
    """Name of a child orchestration, from its function or a constant."""
    first = (
        call.args[0] if call.args else next((each.value for each in call.keywords if each.arg == "orchestrator"), None)
    )
    if isinstance(first, ast.Call):
        return _child(first)
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value
    if isinstance(first, ast.Name | ast.Attribute):
        return first.id if isinstance(first, ast.Name) else first.attr
    return None
