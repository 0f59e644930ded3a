"""Waiting commands for tests."""

from __future__ import annotations

from bridge.core.commands import Cancel, OnFinished, RaiseEvent, Resume, Suspend, Terminate, WaitFor
from bridge.core.message import Message, Position
from bridge.core.origin import MessageOrigin
from bridge.core.stored_message import StoredMessage
from bridge.early_messages.state_machine import InstanceCommand, WaitingCommand

COMMANDS: tuple[InstanceCommand, ...] = (
    RaiseEvent("order-1", "paid", {"amount": 5}, WaitFor(60.0), OnFinished.IGNORE),
    Cancel("order-1", reason="late", on_missing=WaitFor(60.0)),
    Terminate("order-1", {"x": [1]}, False, WaitFor(60.0)),
    Suspend("order-1", "held", WaitFor(60.0)),
    Resume("order-1", None, WaitFor(60.0)),
)
"""One command of each kind that can wait."""


def stored(number: int = 0, body: bytes | None = b'{"id": 1}', key: bytes | None = b"k") -> StoredMessage:
    headers = (("type", b"paid"), ("trace", b"\xff\x00"), ("type", b"again"))
    return StoredMessage(
        Message(body, key, headers, 12.5, "m", "application/json"),
        Position("cluster", "orders", 0, number),
        "local",
        "orders.dlq",
        "orders",
        f"m-{number}",
        "abc",
        ("first",),
        True,
    )


def waiting(
    number: int, since: float = 0.0, ttl: float = 60.0, command: InstanceCommand | None = None
) -> WaitingCommand:
    command = command or RaiseEvent("order-1", "paid", number, WaitFor(ttl))
    return WaitingCommand(command, MessageOrigin(f"m-{number}", "paid"), stored(number), since, since + ttl)
