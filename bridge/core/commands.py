"""Commands of rules to an engine. Every command is a frozen value: building one has no effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from bridge.core.record import record


class OnExisting(StrEnum):
    """Policy for a start whose instance another message has started. The same message is a duplicate."""

    IGNORE = "ignore"
    """Count the message as ignored."""
    RAISE = "raise"
    """Raise the message to the instance as an event."""
    RESTART = "restart"
    """Replace a finished instance by a new one. While the instance runs, the message is ignored."""
    DEAD_LETTER = "dead_letter"


class OnMissing(StrEnum):
    """Policy for a command whose instance does not exist."""

    RETRY = "retry"
    """Try again within the source's `retry.in_memory`, then dead-letter: the start may still be on its way."""
    DEAD_LETTER = "dead_letter"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class WaitFor:
    """Keep the message durably on the engine until its instance is started, for at most `ttl` seconds."""

    ttl: float


@dataclass(frozen=True, slots=True)
class StartFirst:
    """Start the instance with this orchestration and input, then execute the command. tags: of the instance."""

    orchestration: str
    input: Any = None
    tags: Mapping[str, str] = field(default_factory=dict)


class OnFinished(StrEnum):
    """Policy for a command whose instance has finished without seeing it."""

    DEAD_LETTER = "dead_letter"
    RESTART = "restart"
    """Run the instance again, then raise the event. Only for starts and events."""
    IGNORE = "ignore"


Missing = OnMissing | WaitFor | StartFirst


@record(frozen=True, slots=True)
class ScheduleOrchestration:
    """Start an orchestration under a deterministic instance id.

    start_at: aware UTC time of the first turn.
    delay: seconds from the call of the engine. At most one of the two is set.
    event: name of the event, with `input` as its data, that OnExisting.RAISE raises; on_finished is for that event.
    """

    orchestration: str
    instance_id: str
    input: Any = None
    version: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    start_at: datetime | None = None
    delay: float | None = None
    on_existing: OnExisting = OnExisting.IGNORE
    event: str | None = None
    on_finished: OnFinished | None = None


@record(frozen=True, slots=True)
class RaiseEvent:
    """Raise an external event to a running orchestration."""

    instance_id: str
    name: str
    data: Any = None
    on_missing: Missing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


@record(frozen=True, slots=True)
class StartOrRaise:
    """Start the orchestration with `input`; raise `event` with `data` instead when it already runs."""

    orchestration: str
    instance_id: str
    event: str
    input: Any = None
    data: Any = None
    version: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    on_finished: OnFinished = OnFinished.DEAD_LETTER


@dataclass(frozen=True, slots=True)
class Cancel:
    """Ask an orchestration to stop in its own way (a saga compensates) by raising the cancel event.

    grace: seconds until the instance is terminated unless it has acknowledged the request; None: never.
    """

    instance_id: str
    event: str = "cancel"
    reason: str | None = None
    on_missing: Missing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.IGNORE
    grace: float | None = None


@dataclass(frozen=True, slots=True)
class Terminate:
    """Stop an orchestration at once. Nothing is compensated."""

    instance_id: str
    output: Any = None
    recursive: bool = True
    on_missing: Missing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.IGNORE


@dataclass(frozen=True, slots=True)
class Suspend:
    """Pause an orchestration: the instance keeps new events and processes none."""

    instance_id: str
    reason: str | None = None
    on_missing: Missing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


@dataclass(frozen=True, slots=True)
class Resume:
    """Resume a suspended orchestration."""

    instance_id: str
    reason: str | None = None
    on_missing: Missing = OnMissing.RETRY
    on_finished: OnFinished = OnFinished.DEAD_LETTER


@dataclass(frozen=True, slots=True)
class SignalEntity:
    """Send a one-way operation to a durable entity. `at` and `delay` (seconds) postpone it; at most one is set."""

    entity: str
    key: str
    operation: str
    input: Any = None
    at: datetime | None = None
    delay: float | None = None


Command = ScheduleOrchestration | RaiseEvent | StartOrRaise | Cancel | Terminate | Suspend | Resume | SignalEntity


@record(frozen=True, slots=True)
class RoutedCommand:
    """One step of a decision: a command with its route and engine.

    engine: the engine where instances start.
    value: digest of the value of the route's `limits.per`; empty without one.
    others: further engines that may have the instance, while it moves.
    """

    route: str
    command: Command
    engine: str = "default"
    value: str = ""
    others: tuple[str, ...] = ()


@record(frozen=True, slots=True)
class Decision:
    """Decision of the rules about one message.

    routes: names of the routes that matched, in order.
    steps: commands to execute, in order; empty when every matching rule says `ignore`, when `for_each` gave nothing, or
    when nothing matched and the source ignores that.
    """

    routes: tuple[str, ...]
    steps: tuple[RoutedCommand, ...]
