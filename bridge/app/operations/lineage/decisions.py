"""Explanation of the decision about a message that its broker still has: every rule, condition by condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bridge.app.composition import build_router
from bridge.app.operations.lineage.lineage import SearchScope
from bridge.app.operations.lineage.position import (
    NamedPosition,
    decoded,
    message_at,
    message_behind,
    of_its_time,
    places,
)
from bridge.app.operations.lineage.tracing import tracer_of
from bridge.app.operations.operation import Operation, Parameters, Scene
from bridge.config.source import Loaded
from bridge.core.errors import BridgeError, ConfigError, InstanceNotFound, MessageError
from bridge.core.message import Envelope, Message, Position
from bridge.core.states import Outcome
from bridge.routing import ConditionResult, Explanation, Router, command_names, condition_results, explain

MOST_MESSAGES = 10
"""Most positions that are explained for one id: a message can come several times, and to several sources."""
MOST_STEPS = 20
"""Most steps of a decision in an answer."""


class ExplainMessage(Parameters):
    """Message by its identity, event id or position, also that of its dead letter.

    rules: those of its time, if they were kept, or the present ones.
    """

    message: str
    rules: Literal["then", "now"] = "then"


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Result of a rule for a message.

    verdict: see `bridge.routing.explain`.
    at: `file:line` of the rule.
    conditions: all, with their results; empty for a rule that was not considered, and for one without conditions.
    """

    route: str
    verdict: str
    command: str
    at: str
    conditions: tuple[ConditionResult, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class DecisionStep:
    """Command of a decision, without payload."""

    route: str
    engine: str
    command: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ExplainedMessage:
    """Decision about a message, without its execution.

    outcome: if the engine accepts the commands; None when the rules cannot be used.
    config: version of the configuration that decided.
    is_current: False for the rules of another version than the present one.
    steps: the first ones.
    reason, detail: of a failure. failed: route whose rule failed.
    """

    position: str
    source: str
    config: str
    is_current: bool
    outcome: str | None = None
    message_id: str | None = None
    type: str | None = None
    key: str | None = None
    rules: tuple[RuleResult, ...] = ()
    steps: tuple[DecisionStep, ...] = ()
    reason: str | None = None
    detail: str | None = None
    failed: str | None = None


async def _explain(scene: Scene, given: ExplainMessage) -> Any:
    found = []
    for place in (await _places(scene, given.message, given.engine))[:MOST_MESSAGES]:
        read = await message_at(scene.loaded, place)
        if read is not None:
            rules = of_its_time(scene.loaded, place.source, read[1]) if given.rules == "then" else None
            found.append(await _explained(rules or scene.loaded, scene.loaded, place.source, *read))
    if not found:
        raise InstanceNotFound(f"no broker of the configuration has a message {given.message[:200]!r} of a source")
    return [asdict(each) for each in found]


async def _places(scene: Scene, wanted: str, engine: str | None) -> list[NamedPosition]:
    """Positions of a message. Those of an id are known by the lineage of the engine."""
    of = await message_behind(scene.loaded, wanted)
    named = wanted if of is None else of.id
    if found := places(scene.loaded, named):
        return found
    traced = await (await tracer_of(scene, engine)).find(named, SearchScope())
    here = scene.in_flight(named) if scene.in_flight is not None else ()
    positions = [each.position for each in traced.answers] + [each["position"] for each in here]
    return [place for text in dict.fromkeys(filter(None, positions)) for place in places(scene.loaded, text)]


async def _explained(
    rules: Loaded, present: Loaded, source: str, position: Position, message: Message
) -> ExplainedMessage:
    answer: dict[str, Any] = {
        "position": str(position),
        "source": source,
        "config": rules.version,
        "is_current": rules.version == present.version,
    }
    try:
        envelope = await decoded(rules, source, position, message)
        router = build_router(rules, source)
    except MessageError as error:
        return ExplainedMessage(**answer, outcome=Outcome.DEAD_LETTERED, reason=error.reason, detail=str(error))
    except BridgeError as error:
        what = "; ".join(problem.what for problem in error.problems) if isinstance(error, ConfigError) else str(error)
        return ExplainedMessage(**answer, reason=error.reason, detail=what)
    found = explain(router, envelope)
    answer |= {"message_id": envelope.message_id, "type": envelope.type, "key": envelope.key}
    results = tuple(_results(rules, router, envelope, found))
    decision = found.decision
    if decision is None:
        answer |= {"reason": found.reason, "detail": found.error, "failed": found.failed}
        return ExplainedMessage(**answer, outcome=Outcome.DEAD_LETTERED, rules=results)
    steps = tuple(
        DecisionStep(step.route, step.engine, command_names(step.command)) for step in decision.steps[:MOST_STEPS]
    )
    outcome = Outcome.EXECUTED if decision.steps else Outcome.IGNORED
    return ExplainedMessage(**answer, outcome=outcome, rules=results, steps=steps)


def _results(rules: Loaded, router: Router, envelope: Envelope, found: Explanation) -> Iterator[RuleResult]:
    places = {route.name: rules.locate(("routes", at), "") for at, route in enumerate(rules.config.routes)}
    for rule, considered in zip(router.rules, found.rules, strict=True):
        name, is_considered = rule.config.name, considered.verdict != "not considered"
        yield RuleResult(
            name,
            considered.verdict,
            rule.config.command,
            f"{places[name].file}:{places[name].line}",
            condition_results(router, rule, envelope) if is_considered else (),
            considered.error,
        )


DECISION_OPERATIONS: tuple[Operation[Any], ...] = (
    Operation(
        "messages.explain", "reader", "messages/{message}/decision", ExplainMessage, _explain,
        list[ExplainedMessage],
        payloads=frozenset({"actual"}),
    ),
)  # fmt: skip
