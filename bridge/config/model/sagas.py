"""Configuration of declarative sagas: steps that publish commands and await answers, without code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from bridge.config.model.types import Duration, Expression, Integer, Model, Name, Number, Template, rule_of_keys

_KINDS = ("command", "parallel", "steps", "point_of_no_return")
"""Kinds of saga entries. Each entry has exactly one of these keys."""

_ONLY_COMMANDS = (
    "name", "refused", "failed", "detail", "compensation", "timeout", "retry", "compensation_timeout",
    "compensation_retry",
)  # fmt: skip
"""Keys that are valid only in a step with a command."""

StepName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class AttemptsConfig(Model):
    """Number of attempts to send a command, and the pauses between them."""

    attempts: Integer = Field(5, ge=1, description="Number of attempts, including the first.")
    initial: Duration = Field(1.0, description="Pause after the first attempt.")
    multiplier: Number = Field(2.0, ge=1, description="Factor between two pauses.")
    max_delay: Duration = Field(60.0, description="Longest pause.")


class CommandConfig(Model):
    """A message to another service."""

    target: Name = Field(description="Target of the command, from `targets`.")
    type: Template = Field(min_length=1, description="Type of the event.")
    data: Expression = Field("input", description="Data of the event.")
    subject: Template | None = Field(None, description="Subject of the event.")
    key: Template | None = Field(None, description="Ordering key; null: the saga's instance id.")
    headers: dict[str, Template] = Field(
        default_factory=dict, description="Headers in addition to those of the bridge."
    )
    reply: bool | None = Field(
        None, description="Wait for an answer; null: yes for the command of a step, no for a compensation."
    )


def _check_kind(given: Mapping[str, Any]) -> str | None:
    kinds = [kind for kind in _KINDS if given.get(kind) is not None]
    if len(kinds) != 1:
        said = f"has {' and '.join(kinds)}" if kinds else "has none of them"
        return f"an entry of a saga needs exactly one of {', '.join(_KINDS)}; this one {said}"
    if kinds[0] != "command":
        foreign = [key for key in _ONLY_COMMANDS if key in given]
        return f"{', '.join(foreign)} belong to a step with a command" if foreign else None
    return None if given.get("name") is not None else "a step needs a name"


class SagaStepConfig(Model):
    """A step, a group or the point of no return. Each entry has exactly one of these kinds."""

    name: StepName | None = Field(None, description="Name of the step, unique in the saga. Required with `command`.")
    command: CommandConfig | None = Field(None, description="Command of the step.")
    refused: Expression | None = Field(
        None, description="Condition on the `reply` for a refusal: nothing was done, and the saga fails."
    )
    failed: Expression | None = Field(
        None, description="Condition on the `reply` for a failure: the command is tried again, as `retry` says."
    )
    detail: Template | None = Field(None, description="Reason of the refusal or failure, from the `reply`.")
    compensation: CommandConfig | None = Field(None, description="Command that undoes the step.")
    timeout: Duration | None = Field(
        None, gt=0, description="Deadline of all attempts together, including the answer; null: none."
    )
    retry: AttemptsConfig = Field(
        AttemptsConfig(), description="Attempts after a failure of publishing or of the answer."
    )
    compensation_timeout: Duration | None = Field(None, gt=0, description="The same for the compensation.")
    compensation_retry: AttemptsConfig = Field(
        AttemptsConfig(attempts=10), description="The same for the compensation."
    )
    parallel: tuple[SagaStepConfig, ...] | None = Field(
        None, description="Steps and branches that run at the same time."
    )
    steps: tuple[SagaStepConfig, ...] | None = Field(None, description="Branch of `parallel`: several steps in order.")
    point_of_no_return: Literal[True] | None = Field(
        None, description="Later steps are never undone; they are tried until they succeed."
    )

    _one_kind = rule_of_keys(_check_kind)


class SagaConfig(Model):
    """A saga as a list of steps. A route starts it with `schedule: {saga: NAME, ...}`."""

    steps: tuple[SagaStepConfig, ...] = Field(min_length=1, description="Steps in order.")
    replies: Name | None = Field(None, description="Source of the answers; its topic is the `reply-to` of commands.")
    result: Expression | None = Field(None, description="Result in the saga's outcome.")
    publish_outcome: Name | None = Field(
        None, description="Target for the saga's outcome, as an event of the type `NAME.STATUS`."
    )
    roll_forward_pause: Duration = Field(
        60.0, gt=0, description="Pause between rounds of attempts after the point of no return."
    )
