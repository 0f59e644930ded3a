"""Publications of orchestrators, as far as their targets are constant: functions of bridge.workflow that publish."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bridge.lint.contexts import orchestrators
from bridge.lint.module import Module
from bridge.lint.names import TARGET, ConstantScan, named_arguments
from bridge.lint.project import Project, calls


@dataclass(frozen=True, slots=True)
class PublishCall:
    """Message that an orchestrator publishes.

    type: type of the event; None where it is not constant.
    awaits_answer: the orchestrator may wait for an answer.
    """

    target: str
    type: str | None
    awaits_answer: bool = False


def publications(project: Project, modules: Sequence[Module]) -> dict[str, list[PublishCall]]:
    """Publications of the registered orchestrators in the modules, by name of the orchestrator."""
    scan = ConstantScan(project, modules)
    found: dict[str, list[PublishCall]] = {}
    for module in modules:
        for root in orchestrators(project, module):
            if not root.registered:
                continue
            each: dict[PublishCall, None] = {}
            for reached in project.reach(module, root.function):
                for call, _ in calls(reached.function):
                    each.update(dict.fromkeys(_of_call(scan, reached.module, call)))
            if each:
                found[root.function.name] = list(each)
    return found


def _of_call(scan: ConstantScan, module: Module, call: ast.Call) -> Iterator[PublishCall]:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    awaits = "reply_to" in given
    for kind, argument in named_arguments(module, call):
        if kind != TARGET:
            continue
        chosen = given.get("type")
        if chosen is None and len(call.args) > 1 and (module.resolve(call.func) or "").endswith(".Command"):
            chosen = call.args[1]
        types = [] if chosen is None else [text for _, _, text in scan.constants(module, chosen)]
        for _, _, target in scan.constants(module, argument):
            for type_ in types or (None,):
                yield PublishCall(target, type_, awaits)
