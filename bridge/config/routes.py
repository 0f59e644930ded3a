"""Routes: which message leads to which command."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from bridge.commands import OnExisting, OnFinished, OnMissing
from bridge.config.types import Expression, Model, Name, Template

Scalar = str | bool | int | float
VERBS = (
    "schedule", "raise_event", "start_or_raise", "cancel", "terminate", "suspend", "resume", "signal_entity", "ignore",
)  # fmt: skip


class ScheduleVerb(Model):
    """Start an orchestration."""

    orchestration: str = Field(min_length=1)
    instance_id: Template
    input: Expression = "payload"
    version: Template | None = None
    tags: dict[str, Template] = Field(default_factory=dict)
    start_at: Template | None = Field(None, description="RFC 3339 time of the first turn.")
    delay: Template | None = Field(
        None, description="Duration until the first turn, like `30s` or `{{ payload.minutes }}m`."
    )
    on_existing: OnExisting = OnExisting.IGNORE

    @model_validator(mode="after")
    def _one_time(self) -> ScheduleVerb:
        if self.start_at is not None and self.delay is not None:
            raise ValueError("start_at and delay exclude each other")
        return self


class RaiseEventVerb(Model):
    """Raise an event to a running orchestration."""

    instance_id: Template
    name: Template
    data: Expression = "payload"
    on_missing: OnMissing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


class StartOrRaiseVerb(Model):
    """Start an orchestration with the message as input, or raise it as an event when it already runs."""

    orchestration: str = Field(min_length=1)
    instance_id: Template
    event: Template
    input: Expression = "payload"
    data: Expression = "payload"
    version: Template | None = None
    tags: dict[str, Template] = Field(default_factory=dict)
    on_finished: OnFinished = OnFinished.DEAD_LETTER


class CancelVerb(Model):
    """Ask an orchestration to stop in its own way by raising a cancel event."""

    instance_id: Template
    event: Template = "cancel"
    reason: Template | None = None
    on_missing: OnMissing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.IGNORE


class TerminateVerb(Model):
    """Stop an orchestration at once, without compensation."""

    instance_id: Template
    output: Expression | None = None
    recursive: bool = True
    on_missing: OnMissing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.IGNORE


class SuspendVerb(Model):
    """Pause an orchestration."""

    instance_id: Template
    reason: Template | None = None
    on_missing: OnMissing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


class ResumeVerb(Model):
    """Let a suspended orchestration go on."""

    instance_id: Template
    reason: Template | None = None
    on_missing: OnMissing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


class SignalEntityVerb(Model):
    """Send a one-way operation to a durable entity."""

    entity: str = Field(min_length=1)
    key: Template
    operation: Template
    input: Expression = "payload"
    at: Template | None = Field(None, description="RFC 3339 time of the operation.")
    delay: Template | None = Field(None, description="Duration until the operation.")

    @model_validator(mode="after")
    def _one_time(self) -> SignalEntityVerb:
        if self.at is not None and self.delay is not None:
            raise ValueError("at and delay exclude each other")
        return self


class IgnoreVerb(Model):
    """Take the message and do nothing: counted as ignored."""

    reason: str | None = Field(None, description="Why, for the reader.")


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class RouteConfig(Model):
    """One rule. Exactly one verb says what to do."""

    name: Name
    from_: Annotated[tuple[Name, ...], BeforeValidator(_names)] = Field(alias="from", min_length=1)
    match: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict,
        description="Equalities on type, source, subject, topic, key, `headers.x`, `payload.x.y`; a list means any of.",
    )
    when: Expression | None = None
    on_error: Literal["dead_letter", "no_match"] = Field("dead_letter", description="What a failing `when` means.")
    continue_: bool = Field(False, alias="continue", description="Let later rules match too.")
    for_each: Expression | None = Field(None, description="A list; the verb runs once per `item`, with its `index`.")
    map: Annotated[str, StringConstraints(pattern=r"^[\w.]+:[\w.]+$")] | None = Field(
        None,
        description="`module:function` that takes the envelope and returns the payload that the verb sees.",
    )
    schema_file: str | None = Field(None, alias="schema", description="JSON Schema file for messages of this route.")
    engine: Name = "default"
    schedule: ScheduleVerb | None = None
    raise_event: RaiseEventVerb | None = None
    start_or_raise: StartOrRaiseVerb | None = None
    cancel: CancelVerb | None = None
    terminate: TerminateVerb | None = None
    suspend: SuspendVerb | None = None
    resume: ResumeVerb | None = None
    signal_entity: SignalEntityVerb | None = None
    ignore: IgnoreVerb | None = None

    @model_validator(mode="after")
    def _one_verb(self) -> RouteConfig:
        given = [verb for verb in VERBS if getattr(self, verb) is not None]
        if len(given) != 1:
            said = f"has {' and '.join(given)}" if given else "has none"
            raise ValueError(f"a route needs exactly one of {', '.join(VERBS)}; this one {said}")
        return self

    @property
    def verb(self) -> str:
        """Name of the one verb that is given."""
        return next(verb for verb in VERBS if getattr(self, verb) is not None)
