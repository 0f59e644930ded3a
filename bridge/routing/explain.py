"""Explanation of a routing decision, for `bridge route`. Slower than routing, because it evaluates every rule."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, Literal

from bridge.config.model.types import format_duration
from bridge.core.commands import Command, Decision, StartFirst, WaitFor
from bridge.core.errors import ExpressionCost, ExpressionError, MessageError, Problem
from bridge.core.message import Envelope
from bridge.routing.cel.expression import Compiler
from bridge.routing.cel.scope import RouteScope
from bridge.routing.conditions import split
from bridge.routing.index import ATTRIBUTES, reader, values
from bridge.routing.router import Router
from bridge.routing.rule import Rule

_SHOWN = 80

RuleVerdict = Literal["matched", "equality failed", "when false", "when failed", "not considered"]


@dataclass(frozen=True, slots=True)
class Equality:
    """An equality of `match:` that does not hold. actual: shortened; None if it is missing."""

    key: str
    expected: tuple[Any, ...]
    actual: str | None


@dataclass(frozen=True, slots=True)
class ConditionResult:
    """One condition of a rule with its result: an equality of `match:`, or an operand of `&&` in `when:`.

    text: as the rule has it.
    holds: None if it failed.
    actual: value of an equality, shortened; None if it is missing, and for an operand.
    error: of an operand that failed; quotes no payload.
    """

    text: str
    holds: bool | None
    actual: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule and its verdict.

    when: value of the condition; None if there is none, or if it failed or was not evaluated.
    """

    route: str
    verdict: RuleVerdict
    failed: tuple[Equality, ...] = ()
    condition: str | None = None
    when: bool | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """Rules in order, and the resulting decision, or the error (`error`, with its stable word `reason`).

    failed: route whose rule failed.
    """

    source: str
    rules: tuple[Considered, ...]
    decision: Decision | None
    reason: str | None = None
    error: str | None = None
    failed: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Explanation in JSON types, except for bytes that a payload contains."""
        return {
            "source": self.source,
            "rules": [_plain(rule) for rule in self.rules],
            "routes": None if self.decision is None else list(self.decision.routes),
            "steps": None
            if self.decision is None
            else [
                {"route": step.route, "engine": step.engine, "command": command_dict(step.command)}
                | ({"others": list(step.others)} if step.others else {})
                for step in self.decision.steps
            ],
            "reason": self.reason,
            "error": self.error,
        }


def command_dict(command: Command) -> dict[str, Any]:
    """Command as a dict, with its kind in `type` and times in RFC 3339."""
    return {"type": type(command).__name__, **_plain(command)}


_NAMES = frozenset(("orchestration", "instance_id", "event", "name", "entity", "key", "operation"))
"""Members of commands that hold no payload."""


def command_names(command: Command) -> dict[str, Any]:
    """Kind of a command in `type`, and its names, without payload."""
    names = [each.name for each in fields(command) if each.name in _NAMES]
    return {"type": type(command).__name__, **{name: getattr(command, name) for name in names}}


def _plain(value: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for field in fields(value):
        member = getattr(value, field.name)
        if isinstance(member, datetime):
            member = member.isoformat().replace("+00:00", "Z")
        elif isinstance(member, tuple):
            member = [_plain(each) if isinstance(each, Equality) else each for each in member]
        elif isinstance(member, WaitFor):
            member = {"wait": format_duration(member.ttl)}
        elif isinstance(member, StartFirst):
            member = {"start": member.orchestration, "input": member.input}
        plain[field.name] = member
    return plain


def explain(router: Router, envelope: Envelope) -> Explanation:
    """Explain the decision for a message, with the verdict of every rule. An error of the rules is part of it."""
    scope = router.scope(envelope)
    rules: list[Considered] = []
    is_decided = False
    for rule in router.rules:
        if is_decided:
            rules.append(Considered(rule.config.name, "not considered"))
            continue
        considered = _considered(rule, envelope, scope)
        rules.append(considered)
        is_decided = (considered.verdict == "matched" and not rule.config.continue_) or (
            considered.verdict == "when failed" and rule.config.on_error == "dead_letter"
        )
    return replace(decided(router, envelope), rules=tuple(rules))


def decided(router: Router, envelope: Envelope) -> Explanation:
    """Decision for a message, without the verdicts of the rules. An error of the rules is part of it."""
    try:
        return Explanation(router.source, (), router.route(envelope))
    except MessageError as error:
        return Explanation(router.source, (), None, error.reason, str(error), error.route)


def condition_results(router: Router, rule: Rule, envelope: Envelope) -> tuple[ConditionResult, ...]:
    """Every condition of a rule with its result for a message, also those behind the first one that does not hold."""
    found = [
        ConditionResult(f"{key}: {_listed(wanted)}", reader(key)(envelope) in values(wanted), _actual(key, envelope))
        for key, wanted in rule.config.match.items()
    ]
    if rule.config.when is not None and rule.when is not None:
        operands = split(rule.config.when, "&&")
        if len(operands) > 1:
            compiler = Compiler(lambda path, what: Problem("when", 0, 0, "", what), None)
            compiled = [compiler.condition(each, (), "when") for each in operands]
        else:
            compiled = [rule.when]
        if None in compiled:  # an operand that is a condition only together with the others
            operands, compiled = [rule.config.when], [rule.when]
        scope = router.scope(envelope)
        for text, expression in zip(operands, compiled, strict=True):
            assert expression is not None
            try:
                found.append(ConditionResult(text, expression.condition(scope)))
            except (ExpressionError, ExpressionCost) as error:
                found.append(ConditionResult(text, None, None, str(error)))
    return tuple(found)


def _listed(wanted: Any) -> str:
    several = wanted if isinstance(wanted, tuple) else (wanted,)
    return " or ".join(json.dumps(each, ensure_ascii=False, default=str) for each in several)


def _considered(rule: Rule, envelope: Envelope, scope: RouteScope) -> Considered:
    name, condition = rule.config.name, rule.config.when
    failed = tuple(
        Equality(key, wanted if isinstance(wanted, tuple) else (wanted,), _actual(key, envelope))
        for key, wanted in rule.config.match.items()
        if reader(key)(envelope) not in values(wanted)
    )
    if failed:
        return Considered(name, "equality failed", failed, condition)
    if rule.when is None:
        return Considered(name, "matched")
    try:
        value = rule.when.condition(scope)
    except (ExpressionError, ExpressionCost) as error:
        return Considered(name, "when failed", (), condition, None, str(error))
    return Considered(name, "matched" if value else "when false", (), condition, value)


def _actual(key: str, envelope: Envelope) -> str | None:
    value: Any = None
    if key in ATTRIBUTES:
        value = ATTRIBUTES[key](envelope)
    else:
        room, _, name = key.partition(".")
        if room == "payload":
            value = envelope.data
            for part in name.split("."):
                value = value.get(part) if isinstance(value, dict) else None
        else:
            value = getattr(envelope, room).get(name)
    if value is None:
        return None
    if isinstance(value, dict | list):
        return "a map" if isinstance(value, dict) else "a list"
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
