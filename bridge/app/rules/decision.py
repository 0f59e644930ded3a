"""Decision about a message in the words of fixtures and of `bridge diff`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bridge.app.explain import DecisionResult, json_form, with_ordered_values
from bridge.config.model.bridge import BridgeConfig
from bridge.routing import command_dict
from bridge.routing.saga import SAGA_ORCHESTRATION


@dataclass(frozen=True, slots=True)
class DecisionDocument:
    """Decision about one message.

    outcome: several, joined by a comma, if the message led to further messages of the same source.
    commands: members of each command, by the names that fixtures use.
    """

    outcome: str
    routes: tuple[str, ...] = ()
    commands: tuple[Mapping[str, Any], ...] = ()
    dead_letter: str | None = None
    detail: str | None = field(default=None, repr=False)


def decision_of(answer: DecisionResult, config: BridgeConfig) -> DecisionDocument:
    """Decision of the rules, if the engine accepts the commands."""
    found = answer.explanation.decision if answer.explanation is not None else None
    kinds = {route.name: route.command for route in config.routes}
    commands = [
        {
            "route": step.route,
            "command": kinds[step.route],
            "engine": step.engine,
            **_members(command_dict(step.command)),
        }
        for step in (found.steps if found is not None else ())
    ]
    return DecisionDocument(answer.outcome.value, answer.routes, tuple(commands), answer.reason, answer.detail)


def _members(command: dict[str, Any]) -> dict[str, Any]:
    """Members of a command without its type. A saga has its name and the input that the rule gives it."""
    members: dict[str, Any] = with_ordered_values(json_form(command))
    del members["type"]
    if members.get("orchestration") == SAGA_ORCHESTRATION:
        start = members["input"]
        members |= {"saga": start["definition"]["name"], "input": start["input"]}
        del members["orchestration"]
    return members


def summary(command: Mapping[str, Any]) -> str:
    """Command in one line; empty if it has none of the known names."""
    names = ("route", "command", "orchestration", "saga", "entity", "key", "instance_id", "name", "event", "operation")
    return " ".join(str(command[name]) for name in names if command.get(name) is not None)
