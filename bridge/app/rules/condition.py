"""First condition by which two configurations decide differently about a message, with its place in the files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bridge.app.explain import DecisionResult
from bridge.config.model.routes import RouteConfig
from bridge.config.source import Loaded
from bridge.routing import Considered

_NO_RULE = "no such rule"


@dataclass(frozen=True, slots=True)
class DifferingCondition:
    """First condition that separates two decisions.

    route: None for a part of a source.
    member: part of the route or source, like `match.type`, `when`, `schedule.input`, `rule` for a route that only one
    configuration has, and `order` for one that only one of them reaches.
    old, new: the condition with its result; None where a configuration has none.
    old_at, new_at: `file:line:column`; None where a configuration has no such part.
    """

    route: str | None
    member: str
    old: str | None = None
    new: str | None = None
    old_at: str | None = None
    new_at: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Members as JSON types."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Side:
    """Decision of one configuration, with the verdict of every rule. answer: None if it has no such source."""

    loaded: Loaded
    source: str
    answer: DecisionResult | None

    @property
    def rules(self) -> Sequence[Considered]:
        """Verdicts in the order of the rules; empty for a message that cannot be decoded."""
        explanation = self.answer.explanation if self.answer is not None else None
        return () if explanation is None else explanation.rules

    def route(self, name: str) -> RouteConfig | None:
        """Settings of a route; None if there is no such route."""
        return next((route for route in self.loaded.config.routes if route.name == name), None)

    def at(self, *path: str | int) -> str:
        """Place of a path, or of the nearest parent that is written."""
        found = self.loaded.locate(path, "")
        return f"{found.file}:{found.line}:{found.column}" if found.line else found.file

    def place(self, route: str | None, *members: str | int) -> str | None:
        """Place of a part of a route, or of the source; None if there is none."""
        if route is None:
            known = self.source in self.loaded.config.sources
            return self.at("sources", self.source, *members) if known else None
        names = [each.name for each in self.loaded.config.routes]
        return self.at("routes", names.index(route), *members) if route in names else None


def first_condition(old: Side, new: Side, changed: Sequence[tuple[str, str]]) -> DifferingCondition:
    """First differing condition of two different decisions.

    changed: differing members of the commands, as pairs of route and member, if the routes are the same.
    """
    if old.answer is None or new.answer is None:
        return _of_source(old, new, "source", [None if side.answer else "no such source" for side in (old, new)])
    if old.answer.envelope is None or new.answer.envelope is None:
        results = ["decoded" if side.answer and side.answer.envelope else _reason(side) for side in (old, new)]
        return _of_source(old, new, "codec", results)
    found = _removed_or_changed(old, new)
    if found is not None:
        return found
    if changed:
        return _of_command(old, new, *changed[0])
    for route in old.answer.routes:
        kinds = [_command(side, route) for side in (old, new)]
        if kinds[0] != kinds[1]:
            places = [side.place(route, kind) for side, kind in zip((old, new), kinds, strict=True)]
            return DifferingCondition(route, "command", kinds[0], kinds[1], places[0], places[1])
    failed = _failed(old) or _failed(new)
    if failed is None:
        texts = [side.loaded.config.sources[side.source].no_match for side in (old, new)]
        return _of_source(old, new, "no_match", texts)
    results = [_reason(side) or "succeeds" for side in (old, new)]
    kinds = [_command(side, failed) for side in (old, new)]
    places = [side.place(failed, kind) for side, kind in zip((old, new), kinds, strict=True)]
    return DifferingCondition(failed, kinds[1] or kinds[0], results[0], results[1], places[0], places[1])


def _of_source(old: Side, new: Side, member: str, texts: Sequence[str | None]) -> DifferingCondition:
    return DifferingCondition(None, member, texts[0], texts[1], old.place(None, member), new.place(None, member))


def _reason(side: Side) -> str | None:
    return None if side.answer is None else side.answer.reason


def _command(side: Side, route: str) -> str:
    """Kind of a route's command; empty if there is no such route."""
    settings = side.route(route)
    return "" if settings is None else settings.command


def _failed(side: Side) -> str | None:
    explanation = side.answer.explanation if side.answer is not None else None
    return None if explanation is None else explanation.failed


def _removed_or_changed(old: Side, new: Side) -> DifferingCondition | None:
    """First rule, in the order of the new configuration, whose effect differs; before it, a rule that is gone."""
    verdicts = {each.route: each for each in old.rules}
    order = {name: at for at, name in enumerate(verdicts)}
    known = {each.route for each in new.rules}
    gone = next((each for each in old.rules if each.route not in known and _effect(old, each)), None)
    passed = -1
    """Position in the old configuration of the last rule with equal effects."""
    for now in new.rules:
        was = verdicts.get(now.route)
        if was is not None and (found := _of_rule(old, new, was, now)) is None:
            passed = max(passed, order[now.route])
            continue
        if was is None and not _effect(new, now):
            continue
        if gone is not None and order[gone.route] <= (passed + 1 if was is None else order[now.route]):
            break
        if was is None:
            return DifferingCondition(now.route, "rule", _NO_RULE, _effect(new, now), None, new.place(now.route))
        return found
    if gone is None:
        return None
    return DifferingCondition(gone.route, "rule", _effect(old, gone), _NO_RULE, old.place(gone.route), None)


def _effect(side: Side, rule: Considered) -> str:
    """Effect of a rule on the decision; empty if later rules decide."""
    if rule.verdict == "matched":
        return "matches"
    settings = side.route(rule.route)
    return "fails" if rule.verdict == "when failed" and settings and settings.on_error == "dead_letter" else ""


def _of_rule(old: Side, new: Side, was: Considered, now: Considered) -> DifferingCondition | None:
    """First differing condition of a rule that both configurations have; None if its effect is the same."""
    name, effects = now.route, (_effect(old, was), _effect(new, now))
    if effects[0] == effects[1]:
        texts = [_goes_on(side, name, effects[0]) for side in (old, new)]
        return None if texts[0] == texts[1] else _with_places(old, new, name, "continue", texts, path=("continue",))
    if "not considered" in (was.verdict, now.verdict):
        return _with_places(old, new, name, "order", [effect or "not reached" for effect in effects])
    if (key := _differing_key(was, now)) is not None:
        texts = [_equality(side, name, key, verdict) for side, verdict in ((old, was), (new, now))]
        return _with_places(old, new, name, f"match.{key}", texts, path=("match", key))
    if was.verdict == now.verdict:
        texts = [f"on_error: {settings.on_error}" if (settings := side.route(name)) else None for side in (old, new)]
        return _with_places(old, new, name, "on_error", texts, path=("on_error",))
    return _with_places(old, new, name, "when", (_when(was), _when(now)), path=("when",))


def _goes_on(side: Side, route: str, effect: str) -> str | None:
    """Setting `continue` of a rule that matches; None for another rule."""
    settings = side.route(route)
    return f"continue: {json.dumps(settings.continue_)}" if effect == "matches" and settings is not None else None


def _with_places(
    old: Side, new: Side, route: str, member: str, texts: Sequence[str | None], path: tuple[str, ...] = ()
) -> DifferingCondition:
    return DifferingCondition(route, member, texts[0], texts[1], old.place(route, *path), new.place(route, *path))


def _differing_key(was: Considered, now: Considered) -> str | None:
    """First key of `match` that holds in one configuration only."""
    failed = [{each.key for each in side.failed} for side in (was, now)]
    return next(
        (each.key for each in (*was.failed, *now.failed) if (each.key in failed[0]) != (each.key in failed[1])), None
    )


def _equality(side: Side, route: str, key: str, verdict: Considered) -> str | None:
    settings = side.route(route)
    match: Mapping[str, Any] = settings.match if settings is not None else {}
    if key not in match:
        return None
    holds = all(each.key != key for each in verdict.failed)
    return f"{key}: {json.dumps(match[key], ensure_ascii=False)} {'holds' if holds else 'does not hold'}"


def _when(rule: Considered) -> str | None:
    if rule.condition is None:
        return None
    result = "fails" if rule.verdict == "when failed" else f"is {str(rule.when).lower()}"
    return f"{rule.condition} {result}"


def _of_command(old: Side, new: Side, route: str, member: str) -> DifferingCondition:
    """Condition of a command whose member differs."""
    of_route = member in ("engine", "for_each")
    paths = [(member,) if of_route else (_command(side, route), member) for side in (old, new)]
    texts = [_written(side, route, path) for side, path in zip((old, new), paths, strict=True)]
    places = [side.place(route, *path) for side, path in zip((old, new), paths, strict=True)]
    return DifferingCondition(route, ".".join(paths[1]), texts[0], texts[1], places[0], places[1])


def _written(side: Side, route: str, path: Sequence[str]) -> str | None:
    """Text of an expression or template as the configuration has it; None for other settings."""
    value: Any = side.route(route)
    for name in path:
        value = getattr(value, name, None)
    return value if isinstance(value, str) else None
