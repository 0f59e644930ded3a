"""Configuration of routes, which map messages to commands."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from bridge.config.model.types import Duration, Expression, Integer, Model, Name, PerValue, Rate, Template, rule_of_keys
from bridge.core.commands import OnExisting, OnFinished, OnMissing


class WaitMissing(Model):
    """Let the message wait on the engine until its instance is started."""

    wait: Duration = Field(gt=0, description="Longest wait; then the message is dead-lettered.")


class StartMissing(Model):
    """Start the instance, then execute the command."""

    start: str = Field(min_length=1, description="Name of the orchestrator.")
    input: Expression = Field("payload", description="Input of the instance.")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "start" if "start" in value else "wait"
    if isinstance(value, WaitMissing | StartMissing):
        return "wait" if isinstance(value, WaitMissing) else "start"
    return "word"


MissingConfig = Annotated[
    Annotated[OnMissing, Tag("word")] | Annotated[WaitMissing, Tag("wait")] | Annotated[StartMissing, Tag("start")],
    Discriminator(_kind),
]
"""Treatment of a missing instance: a word, `{wait: 1h}` or `{start: orchestration}`."""


Scalar = str | bool | int | float
MATCH_KEYS = ("type", "source", "subject", "id", "topic", "key", "datacontenttype", "dataschema")
MATCH_PREFIXES = ("headers.", "payload.", "extensions.")
COMMANDS = (
    "schedule", "raise_event", "start_or_raise", "reply", "cancel", "terminate", "suspend", "resume", "signal_entity",
    "ignore",
)  # fmt: skip


def _check_match_key(key: str) -> str:
    if key in MATCH_KEYS or (key.startswith(MATCH_PREFIXES) and not key.endswith(MATCH_PREFIXES)):
        return key
    near = difflib.get_close_matches(key, (*MATCH_KEYS, "headers", "payload", "extensions"), n=1, cutoff=0.75)
    meant = near[0] if near else ""
    if meant in MATCH_KEYS:
        raise ValueError(f"`{key}` cannot be matched; did you mean `{meant}`?")
    if meant or key.split(".")[0] in ("header", "data", "event"):
        raise ValueError(
            f"`{key}` cannot be matched; write `headers.NAME`, `payload.PATH` or `extensions.NAME` to match a part"
        )
    raise ValueError(
        f"`{key}` cannot be matched; did you mean `extensions.{key}`, `headers.{key}` or `payload.{key}`? "
        f"(known: {', '.join(MATCH_KEYS)})"
    )


def _check_match_value(value: Any) -> Any:
    parts = value if isinstance(value, list | tuple) else [value]
    if not parts:
        raise ValueError("an empty list matches nothing; write at least one value")
    if not all(isinstance(part, Scalar) for part in parts):
        raise ValueError("expected text, a number, a boolean, or a list of these; use `when` for other conditions")
    return value


def _no_restart(policy: OnFinished) -> OnFinished:
    if policy is OnFinished.RESTART:
        raise ValueError(
            "only `raise_event`, `start_or_raise` and `schedule` with `on_existing: raise` can restart an instance; "
            "use `dead_letter` or `ignore`"
        )
    return policy


WithoutRestart = Annotated[
    OnFinished,
    AfterValidator(_no_restart),
    WithJsonSchema({"type": "string", "enum": [OnFinished.DEAD_LETTER.value, OnFinished.IGNORE.value]}),
    Field(description="Treatment of a message for an instance that has finished."),
]
WithRestart = Annotated[
    OnFinished,
    Field(
        description="Treatment of a message for an instance that has finished without it; `restart` runs the "
        "instance again and then raises the event."
    ),
]
InstanceId = Annotated[
    Template,
    Field(min_length=1, description="Id of the instance; begin it with a constant prefix to keep ids apart."),
]
MissingInstance = Annotated[
    MissingConfig,
    Field(
        description="Treatment of a message without instance; `retry` tries again for the source's `retry.in_memory`."
    ),
]

MatchKey = Annotated[
    str,
    AfterValidator(_check_match_key),
    WithJsonSchema({"type": "string", "pattern": rf"^({'|'.join(MATCH_KEYS)}|(headers|payload|extensions)\..+)$"}),
]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")]
"""`module:function`."""

MatchValue = Annotated[Scalar | tuple[Scalar, ...], BeforeValidator(_check_match_value)]


def _check_workflow(given: Mapping[str, Any]) -> str | None:
    is_one = (given.get("orchestration") is None) != (given.get("saga") is None)
    return None if is_one else "write either `orchestration` or `saga`"


class ScheduleConfig(Model):
    """Start an orchestration, or a saga of the configuration."""

    orchestration: str | None = Field(None, min_length=1, description="Name of the orchestrator.")
    saga: Name | None = Field(None, description="Name of a saga of `sagas`, instead of `orchestration`.")
    instance_id: InstanceId
    input: Expression = Field("payload", description="Input.")
    version: Template | None = Field(None, description="Version of the orchestrator.")
    tags: dict[str, Template] = Field(default_factory=dict, description="Tags of the instance.")
    start_at: Template | None = Field(None, description="RFC 3339 time of the first turn.")
    delay: Template | None = Field(
        None, description="Duration until the first turn, like `30s` or `{{ payload.minutes }}m`."
    )
    on_existing: OnExisting = Field(
        OnExisting.IGNORE,
        description="Treatment of a message whose instance was started by another one; `raise` raises it as "
        "`event`, `restart` replaces a finished instance. A repeated message is always a "
        "duplicate.",
    )
    event: Template | None = Field(
        None, min_length=1, description="Name of the event that `on_existing: raise` raises, with `input` as its data."
    )
    on_finished: OnFinished | None = Field(
        None,
        description="With `on_existing: raise`: treatment of a message for an instance that has finished "
        "without it. Default: `dead_letter`.",
    )

    _one_workflow = rule_of_keys(_check_workflow)

    @model_validator(mode="after")
    def _fits(self) -> ScheduleConfig:
        if self.saga is not None and self.version is not None:
            raise ValueError("a saga has no version: each instance keeps the definition that it was started with")
        if self.start_at is not None and self.delay is not None:
            raise ValueError("write either `start_at` or `delay`")
        raises = self.on_existing is OnExisting.RAISE
        if raises and self.event is None:
            raise ValueError("`on_existing: raise` needs `event`, the name of the event")
        if not raises and (self.event is not None or self.on_finished is not None):
            raise ValueError("`event` and `on_finished` need `on_existing: raise`")
        return self


class RaiseEventConfig(Model):
    """Raise an event to a running orchestration."""

    instance_id: InstanceId
    name: Template = Field(min_length=1, description="Name of the event.")
    data: Expression = Field("payload", description="Data of the event.")
    on_missing: MissingInstance = OnMissing.RETRY
    on_finished: WithRestart = OnFinished.DEAD_LETTER


class StartOrRaiseConfig(Model):
    """Start an orchestration with the message as input, or raise the message as an event if it already runs."""

    orchestration: str = Field(min_length=1, description="Name of the orchestrator.")
    instance_id: InstanceId
    event: Template = Field(min_length=1, description="Name of the event for an instance that is running.")
    input: Expression = Field("payload", description="Input.")
    data: Expression = Field("payload", description="Data of the event.")
    version: Template | None = Field(None, description="Version of the orchestrator.")
    tags: dict[str, Template] = Field(default_factory=dict, description="Tags of the instance.")
    on_finished: WithRestart = OnFinished.DEAD_LETTER


class ReplyConfig(Model):
    """Deliver an answer to the request or saga step that waits for it."""

    data: Expression = Field("payload", description="Data for the waiting workflow.")
    on_missing: OnMissing = Field(
        OnMissing.DEAD_LETTER, description="Treatment of an answer without instance or request."
    )
    on_finished: WithoutRestart = Field(
        OnFinished.IGNORE, description="Treatment of an answer to an instance that has finished."
    )


class CancelConfig(Model):
    "Raise a cancel event: the orchestration stops in its own way."

    instance_id: InstanceId
    event: Template = Field("cancel", min_length=1, description="Name of the cancel event.")
    reason: Template | None = Field(None, description="Reason, shown in the history.")
    grace: Duration | None = Field(
        None,
        gt=0,
        description="Time for the instance to acknowledge the request, before it is terminated; null: no limit.",
    )
    on_missing: MissingInstance = OnMissing.RETRY
    on_finished: WithoutRestart = OnFinished.IGNORE


class TerminateConfig(Model):
    """Stop an orchestration at once, without compensation."""

    instance_id: InstanceId
    output: Expression | None = Field(None, description="Output of the instance.")
    recursive: bool = Field(True, description="Terminate its child orchestrations too.")
    on_missing: MissingInstance = OnMissing.RETRY
    on_finished: WithoutRestart = OnFinished.IGNORE


class _PauseConfig(Model):
    instance_id: InstanceId
    reason: Template | None = Field(None, description="Reason, shown in the history.")
    on_missing: MissingInstance = OnMissing.RETRY
    on_finished: WithoutRestart = OnFinished.DEAD_LETTER


class SuspendConfig(_PauseConfig):
    """Pause an orchestration."""


class ResumeConfig(_PauseConfig):
    """Resume a suspended orchestration."""


class SignalEntityConfig(Model):
    """Send a one-way operation to a durable entity."""

    entity: str = Field(min_length=1, description="Name of the entity.")
    key: Template = Field(min_length=1, description="Key of the entity.")
    operation: Template = Field(min_length=1, description="Name of the operation.")
    input: Expression = Field("payload", description="Input.")
    at: Template | None = Field(None, description="RFC 3339 time of the operation.")
    delay: Template | None = Field(None, description="Duration until the operation.")

    @model_validator(mode="after")
    def _one_time(self) -> SignalEntityConfig:
        if self.at is not None and self.delay is not None:
            raise ValueError("write either `at` or `delay`")
        return self


class IgnoreConfig(Model):
    """Take the message and do nothing. The message is counted as ignored."""

    reason: str | None = Field(None, description="Reason, for readers of the configuration.")


class RoutePerConfig(Model):
    """Limits of a route per value of a template. Messages beyond them wait; messages with other values continue."""

    value: PerValue = Field(
        description="Text that distinguishes senders, like `{{ payload.tenant }}`; empty if the expression fails."
    )
    running: Integer | None = Field(
        None, ge=1, description="Orchestrations of one value that may run at once, counted like the route's `running`."
    )
    rate: Rate | None = Field(None, description="Commands of one value per second, minute, hour or day, like `5/s`.")
    burst: Integer = Field(1, ge=1, description="Commands of one value that may be executed at once after a pause.")
    max_values: Integer = Field(
        1000, ge=1, le=100_000, description="Number of values with their own limits; all others share one."
    )

    @model_validator(mode="after")
    def _require_limit(self) -> RoutePerConfig:
        if self.running is None and self.rate is None:
            raise ValueError("write `running`, `rate` or both")
        if self.rate is None and "burst" in self.model_fields_set:
            raise ValueError("`burst` needs `rate`")
        return self


class RouteLimitsConfig(Model):
    """Limits that protect the engine from floods of messages. At a limit the route's messages wait; none is dropped."""

    running: Integer | None = Field(
        None,
        ge=1,
        description="Orchestrations that may run at once with the constant prefix of the route's `instance_id`.",
    )
    rate: Rate | None = Field(None, description="Commands per second, minute, hour or day, like `50/s`.")
    burst: Integer = Field(1, ge=1, description="Commands that may be executed at once after a pause, within the rate.")
    per: RoutePerConfig | None = Field(
        None,
        description="Limits for each value of a template, such as each tenant. If a template is written here, "
        "`running`, `rate` and `burst` beside it apply to each value.",
    )

    @model_validator(mode="before")
    @classmethod
    def _per_value(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("per"), str):
            return given
        limits = {name: given[name] for name in ("running", "rate", "burst") if name in given}
        rest = {name: value for name, value in given.items() if name not in limits}
        return rest | {"per": {"value": given["per"], **limits}}

    @model_validator(mode="after")
    def _require_limit(self) -> RouteLimitsConfig:
        if not self.model_fields_set:
            raise ValueError("write `running`, `rate` or both, or remove `limits`")
        each = None if self.per is None else self.per.running
        if self.running is not None and each is not None and each > self.running:
            raise ValueError("`per.running` exceeds `running`: one value could take the whole limit of the route")
        if self.rate is None and "burst" in self.model_fields_set:
            raise ValueError("`burst` needs `rate`")
        return self


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class EngineMoveConfig(Model):
    """Engines of a route whose instances move from one engine to another."""

    start: Name = Field(description="Engine where new instances start, and where messages wait for their instance.")
    find: Annotated[tuple[Name, ...], BeforeValidator(_names)] = Field(
        min_length=1,
        description="Engines that may have the instance or entity of a message, `start` among them. The last one "
        "keeps the state of the route's sources.",
    )

    @model_validator(mode="after")
    def _fits(self) -> EngineMoveConfig:
        if len(set(self.find)) < len(self.find):
            raise ValueError("`find` names an engine twice")
        if self.start not in self.find:
            raise ValueError(f"`find` lacks `{self.start}`, the engine of `start`: its instances would get no events")
        return self


def _engine_kind(value: Any) -> str:
    return "move" if isinstance(value, dict | EngineMoveConfig) else "name"


EngineOfRoute = Annotated[
    Annotated[Name, Tag("name")] | Annotated[EngineMoveConfig, Tag("move")], Discriminator(_engine_kind)
]
"""Name of an engine, or `{start: new, find: [new, old]}`."""


def _check_commands(given: Mapping[str, Any]) -> str | None:
    commands = [command for command in COMMANDS if given.get(command) is not None]
    if len(commands) == 1:
        return None
    said = f"has {' and '.join(commands)}" if commands else "has no command"
    return f"a route needs exactly one of {', '.join(COMMANDS)}; this one {said}"


class RouteConfig(Model):
    """One rule. It names exactly one command."""

    name: Name = Field(description="Name of the route, unique in the configuration.")
    from_: Annotated[tuple[Name, ...], BeforeValidator(_names)] = Field(
        alias="from", min_length=1, description="Source, or list of sources, whose messages the rule is tried on."
    )
    match: dict[MatchKey, MatchValue] = Field(
        default_factory=dict,
        description="Equalities on `type`, `source`, `subject`, `id`, `topic`, `key`, `datacontenttype`, "
        "`dataschema`, `headers.NAME`, `payload.PATH` and `extensions.NAME`; a list matches any "
        "of its values.",
    )
    when: Expression | None = Field(None, description="Additional condition.")
    on_error: Literal["dead_letter", "no_match"] = Field(
        "dead_letter", description="Treatment of a message for which `when` fails."
    )
    continue_: bool = Field(False, alias="continue", description="Try later rules too.")
    for_each: Expression | None = Field(
        None, description="Expression for a list; the command is executed once for each `item`, with its `index`."
    )
    map: FunctionName | None = Field(
        None,
        description="`module:function` that takes the envelope and returns the payload for the command.",
    )
    schema_file: str | None = Field(None, alias="schema", description="JSON Schema file for messages of this route.")
    placement: EngineOfRoute = Field(
        "default",
        alias="engine",
        description="Name of an engine of `engines`, or `{start: NEW, find: [NEW, OLD]}` while instances move to "
        "another engine.",
    )
    limits: RouteLimitsConfig | None = Field(
        None, description="Limits for running orchestrations and the rate of commands, for all messages and per value."
    )
    schedule: ScheduleConfig | None = Field(None, description="Start an orchestration.")
    raise_event: RaiseEventConfig | None = Field(None, description="Raise an event to a running orchestration.")
    start_or_raise: StartOrRaiseConfig | None = Field(
        None,
        description="Start an orchestration with the message as input, or raise it as an event when it already runs.",
    )
    reply: ReplyConfig | None = Field(
        None, description="Deliver an answer to the request or saga step that waits for it."
    )
    cancel: CancelConfig | None = Field(
        None, description="Raise a cancel event: the orchestration stops in its own way."
    )
    terminate: TerminateConfig | None = Field(None, description="Stop an orchestration at once, without compensation.")
    suspend: SuspendConfig | None = Field(None, description="Pause an orchestration.")
    resume: ResumeConfig | None = Field(None, description="Resume a suspended orchestration.")
    signal_entity: SignalEntityConfig | None = Field(None, description="Send a one-way operation to a durable entity.")
    ignore: IgnoreConfig | None = Field(None, description="Do nothing; the message is counted as ignored.")

    _one_command = rule_of_keys(_check_commands)

    @property
    def command(self) -> str:
        """Name of the route's command."""
        return next(command for command in COMMANDS if getattr(self, command) is not None)

    @property
    def command_settings(self) -> Any:
        """Settings of the route's command."""
        return getattr(self, self.command)

    @property
    def instance_id(self) -> str | None:
        """Template of the instance id; None for a command without one."""
        return getattr(self.command_settings, "instance_id", None)

    @property
    def engine(self) -> str:
        """Name of the engine where instances start."""
        return self.placement if isinstance(self.placement, str) else self.placement.start

    @property
    def find(self) -> tuple[str, ...]:
        """Names of the engines that may have the instance of a message."""
        return (self.placement,) if isinstance(self.placement, str) else self.placement.find

    @property
    def state_engine(self) -> str:
        """Engine that keeps the state of the route, such as temporary limits: the last one of `find`."""
        return self.find[-1]

    @property
    def others(self) -> tuple[str, ...]:
        """Engines of `find` without `engine`."""
        return () if isinstance(self.placement, str) else tuple(each for each in self.find if each != self.engine)
