"""Comparison of the decisions of two configurations about messages, in groups of equal differences."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bridge.app.codecs import build_registries
from bridge.app.explain import DecisionResult, SourceRules, json_form
from bridge.app.rules.condition import DifferingCondition, Side, first_condition
from bridge.app.rules.decision import DecisionDocument, decision_of
from bridge.app.rules.differences import ValueDifference, member
from bridge.config.source import Loaded
from bridge.core.commands import RoutedCommand
from bridge.core.message import Message, Position
from bridge.routing import command_dict
from bridge.routing.saga import SAGA_ORCHESTRATION

if TYPE_CHECKING:
    from bridge.codecs.confluent import Registry

MAX_GROUPS = 100
"""Most groups of a comparison. Messages beyond them are counted without a group."""

_ENGINE = "engine"


class ConfigurationRules:
    """Rules of all sources of a configuration, compiled on demand."""

    def __init__(self, loaded: Loaded, registries: Mapping[str, Registry] | None = None) -> None:
        """Prepare the rules.

        registries: schema registries by name; None: those of the configuration, which the user closes.
        """
        self.loaded = loaded
        self._registries = registries
        self._sources: dict[str, SourceRules | None] = {}

    @cached_property
    def registries(self) -> Mapping[str, Registry]:
        """Schema registries by name."""
        return build_registries(self.loaded) if self._registries is None else self._registries

    def compile(self) -> None:
        """Compile the rules of every source. Raises: ConfigError."""
        for name in self.loaded.config.sources:
            self.of(name)

    def of(self, source: str) -> SourceRules | None:
        """Rules of a source; None if the configuration has no such source. Raises: ConfigError."""
        if source not in self._sources:
            known = source in self.loaded.config.sources
            self._sources[source] = SourceRules.build(self.loaded, source, self.registries) if known else None
        return self._sources[source]

    async def prepare(self, source: str, message: Message) -> None:
        """Get the schemas of a message that its codec needs. Raises: MessageError, EngineOutage."""
        rules = self.of(source)
        if rules is not None and rules.decoder.prepare is not None:
            await rules.decoder.prepare([message])

    def decide(self, source: str, message: Message, position: Position | None) -> DecisionResult | None:
        """Decision about a message of a source; None if the configuration has no such source. Raises: ConfigError."""
        rules = self.of(source)
        return None if rules is None else rules.decide(message, position)

    def explain(self, source: str, message: Message, position: Position | None) -> Side:
        """Decision about a message of a source, with the verdict of every rule. Raises: ConfigError."""
        rules = self.of(source)
        return Side(self.loaded, source, None if rules is None else rules.explain(message, position))

    async def close(self) -> None:
        """Close the registries."""
        if "registries" in self.__dict__ and self._registries is None:
            for registry in self.registries.values():
                await registry.close()


@dataclass(frozen=True, slots=True)
class Shape:
    """Decision without values that a message has. commands: each route that makes commands, with their kind."""

    outcome: str
    routes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    dead_letter: str | None = None

    @property
    def text(self) -> str:
        """Shape in one line."""
        if self.dead_letter is not None:
            return f"dead letter ({self.dead_letter})"
        if self.commands:
            return ", ".join(self.commands)
        return f"{self.outcome} by {', '.join(self.routes)}" if self.routes else self.outcome


NO_SOURCE = Shape("not received")
"""Shape of a message whose source a configuration does not have."""


@dataclass(frozen=True, slots=True)
class Example:
    """First message of a group. old, new: None where the configuration has no such source."""

    message: Message = field(repr=False)
    position: Position | None
    message_id: str | None
    old: DecisionDocument | None = field(repr=False)
    new: DecisionDocument | None = field(repr=False)


@dataclass(slots=True)
class DifferenceGroup:
    """Messages with the same difference.

    members: differing members of commands, like `start-order.input`, if the routes are the same.
    """

    source: str
    old: Shape
    new: Shape
    members: tuple[str, ...]
    condition: DifferingCondition
    example: Example
    count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Group as JSON types. Its example has values of the message."""
        key = self.example.message.key
        sides = (("old", self.example.old), ("new", self.example.new))
        example: dict[str, Any] = {
            "id": self.example.message_id,
            "key": None if key is None else key.decode("utf-8", "replace"),
            **_position(self.example.position),
            **{name: None if side is None else _decision(side) for name, side in sides},
        }
        return {
            "count": self.count,
            "source": self.source,
            "old": _shape(self.old),
            "new": _shape(self.new),
            "members": list(self.members),
            "condition": self.condition.to_dict(),
            "example": example,
        }


def _position(position: Position | None) -> dict[str, Any]:
    if position is None:
        return {"topic": None, "partition": None, "offset": None}
    return {"topic": position.topic, "partition": position.partition, "offset": position.offset}


def _decision(decision: DecisionDocument) -> dict[str, Any]:
    return {
        "outcome": decision.outcome,
        "routes": list(decision.routes),
        "commands": [dict(command) for command in decision.commands],
        "dead_letter": decision.dead_letter,
        "detail": decision.detail,
    }


def _decision_of(side: Side) -> DecisionDocument | None:
    return None if side.answer is None else decision_of(side.answer, side.loaded.config)


def _shape(shape: Shape) -> dict[str, Any]:
    return {
        "text": shape.text,
        "outcome": shape.outcome,
        "routes": list(shape.routes),
        "dead_letter": shape.dead_letter,
    }


class RulesComparison:
    """Counts and groups of the differences between two configurations."""

    def __init__(self, old: ConfigurationRules, new: ConfigurationRules) -> None:
        self.old = old
        self.new = new
        self.messages = 0
        self.different = 0
        self.ungrouped = 0
        """Different messages beyond the limit of groups."""
        self._groups: dict[tuple[Any, ...], DifferenceGroup] = {}

    @property
    def groups(self) -> list[DifferenceGroup]:
        """Groups, the largest first."""
        return sorted(self._groups.values(), key=lambda group: -group.count)

    async def add(self, source: str, message: Message, position: Position | None = None) -> bool:
        """Compare the decisions about a message of a source. Returns True if they are the same.

        Raises: ConfigError, EngineOutage for a schema registry that does not answer.
        """
        for side in (self.old, self.new):
            await side.prepare(source, message)
        return self.compare(source, message, position)

    def compare(self, source: str, message: Message, position: Position | None) -> bool:
        """Compare the decisions about a prepared message; see `add`. Raises: ConfigError."""
        self.messages += 1
        if _is_same(self.old.decide(source, message, position), self.new.decide(source, message, position)):
            return True
        self.different += 1
        self._note(source, message, position)
        return False

    def _note(self, source: str, message: Message, position: Position | None) -> None:
        old, new = (side.explain(source, message, position) for side in (self.old, self.new))
        shapes = _shape_of(old), _shape_of(new)
        changed = list(_changed(old, new)) if shapes[0] == shapes[1] else []
        condition = first_condition(old, new, changed)
        members = tuple(f"{route}.{member}" for route, member in changed)
        key = (source, *shapes, members, condition)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MAX_GROUPS:
                self.ungrouped += 1
                return
            envelopes = (side.answer.envelope for side in (old, new) if side.answer is not None)
            id_ = next((each.id for each in envelopes if each is not None), message.message_id)
            example = Example(message, position, id_, _decision_of(old), _decision_of(new))
            group = self._groups[key] = DifferenceGroup(source, *shapes, members, condition, example)
        group.count += 1

    def to_dict(self) -> dict[str, Any]:
        """Counts and groups as JSON types. The examples of groups have values of messages."""
        return {
            "messages": self.messages,
            "different": self.different,
            "ungrouped": self.ungrouped,
            "groups": [group.to_dict() for group in self.groups],
        }


def _steps(answer: DecisionResult | None) -> Sequence[RoutedCommand]:
    found = answer.explanation.decision if answer is not None and answer.explanation is not None else None
    return () if found is None else found.steps


def _is_same(old: DecisionResult | None, new: DecisionResult | None) -> bool:
    """True if both decisions lead to the same commands, or to a dead letter with the same reason."""
    if old is None or new is None:
        return old is new
    if (old.outcome, old.routes, old.reason) != (new.outcome, new.routes, new.reason):
        return False
    steps = (_steps(old), _steps(new))
    # Equal texts mean equal steps; other texts may differ only in the order of members
    return repr(steps[0]) == repr(steps[1]) or _canonical(_comparable(old)) == _canonical(_comparable(new))


def _comparable(answer: DecisionResult | None) -> list[dict[str, Any]]:
    """Commands of a decision with all of their members. A saga has its definition as a member."""
    found = []
    for step in _steps(answer):
        members: dict[str, Any] = json_form(command_dict(step.command))
        if members.get("orchestration") == SAGA_ORCHESTRATION:
            start = members.pop("input")
            members |= {"saga": start["definition"], "input": start["input"]}
        found.append({"route": step.route, _ENGINE: step.engine, **members})
    return found


def _canonical(value: Any) -> str:
    """Text of a JSON value, equal for equal values. 1, 1.0 and true differ, as they do for a workflow."""
    return json.dumps(value, sort_keys=True, default=str)


def _shape_of(side: Side) -> Shape:
    answer = side.answer
    if answer is None:
        return NO_SOURCE
    kinds = {route.name: route.command for route in side.loaded.config.routes}
    commands = dict.fromkeys(f"{step.route} ({kinds[step.route]})" for step in _steps(answer))
    return Shape(answer.outcome.value, answer.routes, tuple(commands), answer.reason)


def _changed(old: Side, new: Side) -> Iterator[tuple[str, str]]:
    """Differing members of the commands, as pairs of route and member, each once."""
    before, after = _comparable(old.answer), _comparable(new.answer)
    if [each["route"] for each in before] != [each["route"] for each in after]:
        counts = [[each["route"] for each in side] for side in (before, after)]
        routes = dict.fromkeys((*counts[0], *counts[1]))
        yield from ((route, "for_each") for route in routes if counts[0].count(route) != counts[1].count(route))
        return
    seen = set()
    for was, now in zip(before, after, strict=True):
        for name in dict.fromkeys((*was, *now)):
            pair = (str(now["route"]), name)
            if pair not in seen and _canonical(was.get(name)) != _canonical(now.get(name)):
                seen.add(pair)
                yield pair


def changes(example: Mapping[str, Any]) -> Iterator[ValueDifference]:
    """Differing members of the commands of an example, if both decisions have the same number of commands.

    example: of `DifferenceGroup.to_dict`.
    """
    sides = [(example.get(side) or {}).get("commands", []) for side in ("old", "new")]
    if len(sides[0]) != len(sides[1]):
        return
    for was, now in zip(*sides, strict=True):
        for name in dict.fromkeys((*was, *now)):
            before, after = was.get(name), now.get(name)
            if _canonical(before) != _canonical(after):
                found = list(member(before, after, (), name))
                yield from found or [ValueDifference((), name, before, after)]


def merged(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Sum of comparisons as JSON types. Groups with the same difference are one, with the first example."""
    groups: dict[str, dict[str, Any]] = {}
    for group in (each for document in documents for each in document["groups"]):
        key = _canonical([group[name] for name in ("source", "old", "new", "members", "condition")])
        known = groups.setdefault(key, group | {"count": 0})
        known["count"] += group["count"]
    numbers = {name: sum(each[name] for each in documents) for name in ("messages", "different", "ungrouped")}
    return numbers | {"groups": sorted(groups.values(), key=lambda group: -group["count"])}
