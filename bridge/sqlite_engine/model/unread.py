"""Raised events that an instance has not read, and the limit of their number and size.

Only an orchestrator knows the events that it has read. A worker in this process reports them after each turn. For
orchestrations of other workers an event counts as read when it was part of a turn with at least one action.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.sqlite_engine.model.instance import Instance

ENVELOPE = 4096
"""Bytes that a message needs beside the history."""


@dataclass(frozen=True, slots=True)
class UnreadLimits:
    """Limits of unread events per instance, in number and bytes.

    message_bytes: limit of history and events of an instance whose worker gets them in one message. An eighth of the
    message is reserved for the instance's own events.
    """

    events: int = 10_000
    bytes: int = 16 * 1024 * 1024
    message_bytes: int = 4 * 1024 * 1024

    def refuses(self, instance: Instance, size: int) -> bool:
        """True when an event of this size is beyond the limits."""
        if instance.unread_events >= self.events or instance.unread_bytes + size > self.bytes:
            return True
        if instance.shared:
            return False
        return bool(instance.history_bytes + instance.unread_bytes + size + ENVELOPE > self.message_bytes * 7 // 8)


def note(instance: Instance, size: int) -> None:
    """Count a raised event of this size."""
    instance.unread_events += 1
    instance.unread_bytes += size


def settle(instance: Instance, reported: tuple[int, int] | None, acted: bool) -> None:
    """Update the counts after a turn.

    reported: number and bytes of events that the orchestrator holds unread, where the worker reports them.
    acted: True when the orchestrator's response had an action.
    """
    if reported is None and not acted:
        return
    events, size = _raised(event for _, event in instance.inbox)
    held, held_size = reported or (0, 0)
    instance.unread_events, instance.unread_bytes = held + events, held_size + size


def _raised(found: Iterable[pb.HistoryEvent]) -> tuple[int, int]:
    sizes = [event.ByteSize() for event in found if event.HasField("eventRaised")]
    return len(sizes), sum(sizes)
