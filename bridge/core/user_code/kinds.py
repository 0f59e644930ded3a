"""Kinds of workflow functions, decided in one place for imported modules and for source that is only read.

`bridge.engines.workflows` describes functions that it has imported, `bridge.lint` describes their syntax trees. Both
use `kind_of`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

CONTEXT_NAMES = ("ctx", "context")
"""Names of a first parameter that stand for a context where it has no annotation."""


class FunctionKind(StrEnum):
    """Kind of a workflow function."""

    ORCHESTRATOR = "orchestrator"
    ACTIVITY = "activity"
    ENTITY = "entity"

    @property
    def noun(self) -> str:
        """Name of the called thing: an orchestrator runs as an orchestration."""
        return "orchestration" if self is FunctionKind.ORCHESTRATOR else self.value


CONTEXTS = {
    "OrchestrationContext": FunctionKind.ORCHESTRATOR,
    "ActivityContext": FunctionKind.ACTIVITY,
    "EntityContext": FunctionKind.ENTITY,
}
"""Kinds by name of the SDK's context class."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter in source order. form: `positional`, `keyword` (keyword only), `*` or `**`.

    context: kind of the context class in its annotation; None for any other annotation and for none.
    """

    name: str
    form: str
    required: bool
    annotated: bool
    context: FunctionKind | None


def kind_of(parameters: Sequence[Parameter], *, is_generator: bool) -> FunctionKind | None:
    """Kind of a function; None for a helper.

    The first parameter decides: its annotation is a context class, or it has no annotation and is named `ctx` or
    `context` (a generator is an orchestrator then, any other function an activity). The function must accept a call
    with two positional arguments, context and input.
    """
    if not parameters or parameters[0].form != "positional":
        return None
    first = parameters[0]
    kind = first.context
    if kind is None and not first.annotated and first.name in CONTEXT_NAMES:
        kind = FunctionKind.ORCHESTRATOR if is_generator else FunctionKind.ACTIVITY
    positional = [one for one in parameters if one.form == "positional"]
    accepts = len(positional) >= 2 or any(one.form == "*" for one in parameters)
    needs_more = any(one.required for one in (*positional[2:], *(one for one in parameters if one.form == "keyword")))
    return kind if accepts and not needs_more else None


def annotation_kind(annotation: ast.expr, leaf: Callable[[ast.expr], FunctionKind | None]) -> FunctionKind | None:
    """Kind of the context class in an annotation. leaf: kind of a plain or dotted name.

    Text is parsed. `Optional`, unions and `Annotated` are searched. The base of a generic class counts.
    """
    if isinstance(annotation, ast.Constant):
        parsed = _parsed(annotation.value) if isinstance(annotation.value, str) else None
        return None if parsed is None else annotation_kind(parsed, leaf)
    if isinstance(annotation, ast.BinOp):
        return annotation_kind(annotation.left, leaf) or annotation_kind(annotation.right, leaf)
    if isinstance(annotation, ast.Subscript):
        inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        match _last(annotation.value):
            case "Optional" | "Union":
                return next((kind for one in inner if (kind := annotation_kind(one, leaf))), None)
            case "Annotated":
                return annotation_kind(inner[0], leaf)
        return annotation_kind(annotation.value, leaf)
    return leaf(annotation) if isinstance(annotation, ast.Name | ast.Attribute) else None


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip("\"' "), mode="eval").body
    except (SyntaxError, ValueError):
        return None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
