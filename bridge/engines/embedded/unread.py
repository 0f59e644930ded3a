"""Events that were raised to an instance and that it has not read, and the bound of their number and size.

Only an orchestrator knows what it has read. A worker in this process reports it after each turn. Of other workers'
orchestrations an event counts as read once it was part of a turn that asked for something.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from durabletask.internal import orchestrator_service_pb2 as pb

from bridge.engines.embedded.instance import Instance

ENVELOPE = 4096
"""Room that a message needs beside the history, in bytes."""


@dataclass(frozen=True, slots=True)
class UnreadLimits:
    """What may be unread per instance: events, and their bytes.

    message_bytes: history and events of an instance whose worker gets them in one message. An eighth of the message is
    left for what the instance itself does.
    """

    events: int = 10_000
    bytes: int = 16 * 1024 * 1024
    message_bytes: int = 4 * 1024 * 1024

    def refuses(self, instance: Instance, size: int) -> bool:
        """Whether an event of this size is one too many."""
        if instance.unread_events >= self.events or instance.unread_bytes + size > self.bytes:
            return True
        if instance.shared:
            return False
        return bool(instance.history_bytes + instance.unread_bytes + size + ENVELOPE > self.message_bytes * 7 // 8)


def note(instance: Instance, size: int) -> None:
    """An event of this size was raised."""
    instance.unread_events += 1
    instance.unread_bytes += size


def settle(instance: Instance, reported: tuple[int, int] | None, acted: bool) -> None:
    """A turn is over. reported: number and bytes of events that its orchestrator holds unread, where the worker tells.
    acted: the orchestrator asked for something.
    """
    if reported is None and not acted:
        return
    events, size = _raised(event for _, event in instance.inbox)
    held, held_size = reported or (0, 0)
    instance.unread_events, instance.unread_bytes = held + events, held_size + size


def _raised(found: Iterable[pb.HistoryEvent]) -> tuple[int, int]:
    sizes = [event.ByteSize() for event in found if event.HasField("eventRaised")]
    return len(sizes), sum(sizes)
