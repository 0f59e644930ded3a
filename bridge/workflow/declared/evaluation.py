"""Activity that evaluates the expressions of declarative sagas.

The orchestrator cannot evaluate them: the key order of CEL maps differs between processes, and another release of the
library may return another value. A replay must return the same value. The result of an activity is kept in the
history.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from durabletask import task

from bridge.core.errors import ExpressionError, Problem
from bridge.core.system_names import EVALUATE
from bridge.routing.cel.expression import Compiler, Expression
from bridge.routing.cel.scope import ExpressionScope
from bridge.routing.cel.template import Template, compile_template

EVALUATE_ACTIVITY = EVALUATE
"""Name of the activity that the bridge's worker registers."""


class SagaScope(ExpressionScope):
    """Variables of a saga's expressions."""

    __slots__ = ("input", "known", "reply", "saga", "steps", "vars")

    def __init__(self, variables: Mapping[str, Any]) -> None:
        super().__init__()
        self.input = variables.get("input")
        self.steps = variables.get("steps") or {}
        self.vars = variables.get("vars") or {}
        self.saga = variables.get("saga") or {}
        self.reply = variables.get("reply")
        self.known = variables.get("known", True)


def evaluate(ctx: task.ActivityContext, request: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a block of expressions and return their values by field.

    request: `block`, and the `variables` that the block reads.
    Raises: ExpressionError or ExpressionCost, which name saga, step and field and never contain a payload.
    """
    block = request["block"]
    scope = SagaScope(request["variables"])
    names, where = tuple(block["names"]), block["where"]
    values: dict[str, Any] = {}
    for field, source in block.get("condition", {}).items():
        values[field] = _expression("condition", source, f"{where}, {field}", names).condition(scope)
    for field, source in block.get("value", {}).items():
        values[field] = _expression("value", source, f"{where}, {field}", names).value(scope)
    for field, text in block.get("text", {}).items():
        # `detail` applies to a failure only, and may read variables that exist only after a failure
        if field != "detail" or any(values.values()):
            values[field] = _template(text, f"{where}, {field}", names).render(scope)
    return values


def _compiler() -> Compiler:
    return Compiler(lambda path, what: Problem("", 0, 0, "", what), variables=None)


@lru_cache(maxsize=2048)
def _expression(kind: str, source: str, where: str, names: tuple[str, ...]) -> Expression:
    compiler = _compiler()
    compile_ = compiler.condition if kind == "condition" else compiler.value
    found = compile_(source, (), where, frozenset(names))
    if found is None:
        raise ExpressionError(f"{where}: {compiler.problems[0].what}")
    return found


@lru_cache(maxsize=2048)
def _template(text: str, where: str, names: tuple[str, ...]) -> Template:
    compiler = _compiler()
    found = compile_template(text, (), where, compiler, frozenset(names))
    if found is None:
        raise ExpressionError(f"{where}: {compiler.problems[0].what}")
    return found


evaluate.__name__ = EVALUATE_ACTIVITY
