"""Routing rules, which map messages to commands. Pure: needs no broker and no engine."""

from bridge.routing.explain import (
    ConditionResult,
    Considered,
    Equality,
    Explanation,
    command_dict,
    command_names,
    condition_results,
    explain,
)
from bridge.routing.lint import costly, lint, lint_patterns, referenced_entities, referenced_orchestrations
from bridge.routing.router import Router, Validate

__all__ = [
    "ConditionResult",
    "Considered",
    "Equality",
    "Explanation",
    "Router",
    "Validate",
    "command_dict",
    "command_names",
    "condition_results",
    "costly",
    "explain",
    "lint",
    "lint_patterns",
    "referenced_entities",
    "referenced_orchestrations",
]
