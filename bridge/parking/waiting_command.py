"""Command that waits for its instance, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

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
from bridge.parking.stored_message import StoredMessage

InstanceCommand = RaiseEvent | Cancel | Terminate | Suspend | Resume
"""Commands that need an existing instance."""

_VERBS: dict[str, type[Any]] = {
    "raise_event": RaiseEvent, "cancel": Cancel, "terminate": Terminate, "suspend": Suspend, "resume": Resume,
}  # fmt: skip
_NAMES = {verb: name for name, verb in _VERBS.items()}
_READ: dict[str, Callable[[Any], Any]] = {"on_finished": OnFinished, "on_missing": WaitFor}


@dataclass(frozen=True, slots=True)
class WaitingCommand:
    """Command with the message that led to it.

    since, until: time of its storage and end of its wait, in seconds since the Unix epoch.
    """

    command: InstanceCommand
    origin: MessageOrigin
    letter: StoredMessage
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
            "letter": self.letter.to_json(),
        }
        if origin.traceparent is not None:
            document |= {"traceparent": origin.traceparent, "tracestate": origin.tracestate}
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> WaitingCommand:
        arguments = {
            name: _READ[name](value) if name in _READ else value for name, value in document["command"].items()
        }
        command = _VERBS[document["verb"]](**arguments)
        origin = MessageOrigin(
            document["id"], document["route"], document["part"], document.get("traceparent"), document.get("tracestate")
        )
        return cls(command, origin, StoredMessage.from_json(document["letter"]), document["since"], document["until"])


def waiting_command(command: Command) -> InstanceCommand | None:
    """Return the command when its rule lets it wait for its instance, else None."""
    if isinstance(command, InstanceCommand) and isinstance(command.on_missing, WaitFor):
        return command
    return None
