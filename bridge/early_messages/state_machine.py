"""Early messages of one instance: their stored form, and the state machine with the effect of each operation.

Pure but for the `deliver` callback. The order of steps prevents a lost message: each side writes first and looks
second.

    early message:  store the message (`store`) ->  look for the instance  ->  deliver if it is there
    start:          start the instance          ->  notify (`deliver_now`) ->  deliver the stored messages

The later of the two sides finds the other's result and delivers. Every step may be repeated after a crash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bridge.config.model.engines import EarlyMessagesConfig
from bridge.core.commands import (
    Cancel,
    Command,
    OnFinished,
    RaiseEvent,
    Resume,
    Suspend,
    Terminate,
    WaitFor,
)
from bridge.core.origin import MessageOrigin
from bridge.core.settlement import Complete, Hold, Keep, Retry, RetryPolicy, Settlement, WriteDeadLetter, decide
from bridge.core.states import Outcome
from bridge.core.stored_message import REMEMBERED_REFUSALS, OperationResult, StoredMessage
from bridge.core.words import plural

STARTED = "started"
"""Operation of the entity: its instance was started."""

DEDUPLICATION_WINDOW = 300.0
"""Least seconds that an empty queue remembers its delivered messages, to recognise redeliveries as duplicates."""

REMEMBERED = 100
"""Number of delivered messages that a queue remembers: the latest ones."""

EXPIRED, FULL, DROPPED = ("early_expired", "early_full", "early_dropped")
"""Reasons for dead-lettering an early message, beside the failures of its delivery."""

_ERROR = "InstanceNotFound"
"""Error of a message whose delivery did not fail: its instance is missing."""

Deliver = Callable[[Command, MessageOrigin], None]
"""Callback that gives a command to the engine now. Raises: EngineError, RetryLater."""


class RetryLater(Exception):
    """Raised when a delivery was not tried and is to be tried after `delay` seconds."""

    def __init__(self, delay: float) -> None:
        super().__init__(f"after {delay:g} s")
        self.delay = delay


InstanceCommand = RaiseEvent | Cancel | Terminate | Suspend | Resume
"""Commands that need an existing instance."""

_COMMANDS: dict[str, type[Any]] = {
    "raise_event": RaiseEvent, "cancel": Cancel, "terminate": Terminate, "suspend": Suspend, "resume": Resume,
}  # fmt: skip
_NAMES = {command: name for name, command in _COMMANDS.items()}
_READ: dict[str, Callable[[Any], Any]] = {"on_finished": OnFinished, "on_missing": WaitFor}


@dataclass(frozen=True, slots=True)
class WaitingCommand:
    """Command with the message that led to it.

    since, until: time of its storage and end of its wait, in seconds since the Unix epoch.
    """

    command: InstanceCommand
    origin: MessageOrigin
    message: StoredMessage
    since: float
    until: float

    def to_json(self) -> dict[str, Any]:
        command, origin = self.command, self.origin
        arguments = {field.name: getattr(command, field.name) for field in fields(command)}
        arguments["on_missing"] = self.until - self.since
        document: dict[str, Any] = {
            "id": origin.message_id,
            "route": origin.route,
            "part": origin.part,
            "since": self.since,
            "until": self.until,
            "verb": _NAMES[type(command)],
            "command": arguments,
            "letter": self.message.to_json(),
        }
        if origin.traceparent is not None:
            document |= {"traceparent": origin.traceparent, "tracestate": origin.tracestate}
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> WaitingCommand:
        arguments = {
            name: _READ[name](value) if name in _READ else value for name, value in document["command"].items()
        }
        command = _COMMANDS[document["verb"]](**arguments)
        message = StoredMessage.from_json(document["letter"])
        origin = MessageOrigin(
            document["id"],
            document["route"],
            document["part"],
            document.get("traceparent"),
            document.get("tracestate"),
            str(message.position),
        )
        return cls(command, origin, message, document["since"], document["until"])


def waiting_command(command: Command) -> InstanceCommand | None:
    """Return the command when its rule lets it wait for its instance, else None."""
    if isinstance(command, InstanceCommand) and isinstance(command.on_missing, WaitFor):
        return command
    return None


class EarlyMessageQueue:
    """Early messages of one instance, oldest first.

    poll: seconds between two checks for the instance.
    items: JSON of `WaitingCommand`.
    delivered: command keys of delivered messages, the latest last.
    refused: command keys of messages that left as dead letters or were dropped, the latest last. They show the process
    that has stored a message that the queue has processed it.
    tick_at: time of the next `on_timer` call.
    attempts, failed_at: failures of the oldest message since its instance exists.
    read: decodes an item.
    """

    def __init__(
        self,
        limits: EarlyMessagesConfig,
        poll: float,
        policy: RetryPolicy,
        document: dict[str, Any] | None = None,
        read: Callable[[dict[str, Any]], WaitingCommand] = WaitingCommand.from_json,
    ) -> None:
        document = document or {}
        self._limits = limits
        self._poll = poll
        self._policy = policy
        self._read = read
        self.items: list[dict[str, Any]] = list(document.get("items", ()))
        self.delivered: list[str] = list(document.get("delivered", ()))
        self.refused: list[str] = list(document.get("refused", ()))
        self.tick_at: float | None = document.get("tick")
        self.attempts: int = document.get("attempts", 0)
        self.failed_at: float | None = document.get("failed_at")
        self.forget_at: float | None = document.get("forget")
        self.size: int = document.get("size", 0)

    def to_json(self) -> dict[str, Any] | None:
        """State as JSON; None when there is nothing to remember."""
        if not self.items and not self.delivered and not self.refused:
            return None
        document = {
            "v": 1,
            "items": self.items,
            "delivered": self.delivered,
            "refused": self.refused,
            "tick": self.tick_at,
            "attempts": self.attempts,
            "failed_at": self.failed_at,
            "forget": self.forget_at,
            "size": self.size,
        }
        return {name: value for name, value in document.items() if value}

    # -- operations

    def store(self, item: dict[str, Any], size: int, deliver: Deliver, now: float) -> OperationResult:
        """Store a message. The first one looks for its instance; later ones rely on the notification of its start."""
        result = OperationResult()
        mark = command_key(item)
        item = item | {"mark": mark, "size": size}
        if mark in self.delivered or any(each["mark"] == mark for each in self.items):
            result.events.append("repeated")
            if mark in self.delivered:
                result.end(item, "duplicate")
            return result
        if len(self.items) >= self._limits.max_messages or self.size + size > self._limits.max_bytes:
            result.events.append("full")
            self._remember_refused(item)
            self._plan(result, now)
            waiting = plural(len(self.items), "message waits", "messages wait")
            result.refuse(item, FULL, f"{waiting} for the same instance already", _ERROR)
            return result
        self.items.append(item)
        self.size += size
        self.forget_at = None
        result.events.append("stored")
        if len(self.items) == 1:
            self._deliver(result, deliver, now)
        self._plan(result, now)
        return result

    def deliver_now(self, deliver: Deliver, now: float) -> OperationResult:
        """Deliver the messages: the instance was started, or may have been."""
        result = OperationResult()
        self._deliver(result, deliver, now)
        self._plan(result, now)
        return result

    def on_timer(self, at: float, deliver: Deliver, now: float, early: bool = False) -> OperationResult:
        """Deliver and expire messages when their time comes. A call for another time than `tick_at` does nothing.

        early: the call may come before `at`, because the clock that scheduled it has run ahead.
        """
        result = OperationResult()
        if at != self.tick_at:
            return result
        self.tick_at = None
        now = now if early else max(now, at)
        self._deliver(result, deliver, now)
        self._expire(result, now)
        if not self.items and self.forget_at is not None and now >= self.forget_at:
            self.delivered.clear()
            self.refused.clear()
        self._plan(result, now)
        return result

    def drop(self, marks: Sequence[str] | None, forget: bool, now: float) -> OperationResult:
        """Drop messages on request of a person.

        marks: their command keys; None: all.
        forget: write no dead letters.
        """
        result = OperationResult()
        for item in [each for each in self.items if marks is None or each["mark"] in marks]:
            self._remove(item)
            self._remember_refused(item)
            result.events.append("dropped")
            if not forget:
                result.refuse(item, DROPPED, "it was dropped from what waits for its instance", _ERROR)
            else:
                result.end(item, "failed", DROPPED)
        self._plan(result, now)
        return result

    # -- steps

    def _deliver(self, result: OperationResult, deliver: Deliver, now: float) -> None:
        """Deliver messages in order, up to the first one that has to wait."""
        while self.items:
            item = self.items[0]
            if item["until"] <= now:
                # The message has expired, whatever the state of its instance; a late look must not revive it
                self._expire(result, now)
                continue
            command: Command | None = None
            try:
                waiting = self._read(item)
                command = waiting.command
                deliver(command, waiting.origin)
            except RetryLater as error:
                self._wake(result, now + error.delay)
                return
            except Exception as error:
                # Any error: an operation that raises would lose its message
                elapsed = 0.0 if self.failed_at is None else now - self.failed_at
                end = decide(error, command, self.attempts + 1, elapsed, self._policy)
                if isinstance(end, Keep):
                    self.attempts, self.failed_at = 0, None
                    return
                if isinstance(end, Complete):
                    result.events.append(str(end.outcome))
                    result.end(item, "duplicate" if end.outcome is Outcome.DUPLICATE else "succeeded")
                    self._remember(item)
                elif isinstance(end, WriteDeadLetter):
                    self._remember_refused(item)
                    result.events.append("refused")
                    result.refuse(item, end.reason, end.detail, type(error).__name__, self.attempts + 1)
                else:
                    self._failed(result, end, now)
                    return
            else:
                result.events.append("delivered")
                result.end(item, "succeeded")
                self._remember(item)
            self._remove(item)

    def _failed(self, result: OperationResult, end: Settlement, now: float) -> None:
        """Plan another attempt: the instance may exist, but the engine does not accept the command now."""
        delay = end.delay if isinstance(end, Retry) else self._policy.max_delay
        if not isinstance(end, Hold):
            self.attempts += 1
            self.failed_at = now if self.failed_at is None else self.failed_at
        self._wake(result, now + delay)

    def _expire(self, result: OperationResult, now: float) -> None:
        for item in [each for each in self.items if each["until"] <= now]:
            self._remove(item)
            self._remember_refused(item)
            result.events.append("expired")
            waited = item["until"] - item["since"]
            result.refuse(item, EXPIRED, f"its instance was not started within {waited:.0f} s", _ERROR)

    def _remove(self, item: dict[str, Any]) -> None:
        if self.items and self.items[0] is item:
            self.attempts, self.failed_at = 0, None
        self.items.remove(item)
        self.size -= item["size"]

    def _remember(self, item: dict[str, Any]) -> None:
        """Remember a delivered message. A dead-lettered one is not remembered: its replay has the same id."""
        self.delivered.append(item["mark"])
        del self.delivered[:-REMEMBERED]

    def _remember_refused(self, item: dict[str, Any]) -> None:
        self.refused.append(item["mark"])
        del self.refused[:-REMEMBERED_REFUSALS]

    def _plan(self, result: OperationResult, now: float) -> None:
        """Schedule the next `on_timer` call: for an expiry, a look at the instance, or the end of remembering."""
        if self.items:
            self._wake(result, min(now + self._poll, min(each["until"] for each in self.items)))
        elif self.delivered or self.refused:
            if self.forget_at is None:
                self.forget_at = now + DEDUPLICATION_WINDOW
            if self.tick_at is None:
                self._wake(result, self.forget_at)

    def _wake(self, result: OperationResult, at: float) -> None:
        if self.tick_at is None or at < self.tick_at:
            self.tick_at = at
            result.wake_at(at)


def command_key(item: dict[str, Any]) -> str:
    """Identity of a waiting command: digest of its message id, route and part."""
    text = f"{item['id']}\n{item['route']}\n{item['part']}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def origin_key(origin: MessageOrigin) -> str:
    """`command_key` of an origin."""
    return command_key({"id": origin.message_id, "route": origin.route, "part": origin.part})
