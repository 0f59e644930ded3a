"""Search for messages that a source has in flight: queued, being executed, or waiting for another attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from bridge.core.bytetext import text_of
from bridge.core.origin import is_named
from bridge.core.settlement import Complete
from bridge.core.states import MessageState
from bridge.pipeline.flow_control import EngineQueue
from bridge.pipeline.in_flight_delivery import InFlightDelivery
from bridge.pipeline.lanes import Lane, LaneState
from bridge.pipeline.source import SourcePipeline
from bridge.system.clock import time_of


@dataclass(frozen=True, slots=True)
class InFlightMessage:
    """Message in flight. Times are RFC 3339 in UTC.

    since: time of its receipt.
    attempt: number of the current attempt.
    failed_since: time of its first failure; None without one, and during an outage.
    next_try: time of the next attempt; None when it depends on something else (`detail`).
    behind: number of messages of its key before it.
    reason, detail: last error, or the cause of the wait; empty without one.
    """

    source: str
    state: MessageState
    message_id: str | None
    position: str
    key: str | None
    since: str
    attempt: int
    failed_since: str | None
    next_try: str | None
    behind: int
    reason: str
    detail: str
    route: str | None


def find(source: SourcePipeline, wanted: str) -> Iterator[InFlightMessage]:
    """Messages of an identity, an event id, a position, or an ordering key."""
    for lane in source.lanes:
        by_key = _key(lane.key) == wanted
        for behind, item in enumerate(lane.items):
            message_id = item.message_id if item.envelope is None else item.envelope.message_id
            if by_key or is_named(message_id, str(item.delivery.position), wanted):
                yield _described(source, lane, item, behind, message_id)


def _described(
    source: SourcePipeline, lane: Lane, item: InFlightDelivery, behind: int, message_id: str | None
) -> InFlightMessage:
    now, monotonic = time.time(), time.monotonic()
    timer = lane.timer if behind == 0 else None
    next_try = None if timer is None else time_of(now + timer.when() - asyncio.get_running_loop().time())
    retrying = item.last_failure is not None or item.pending is not None
    reason, detail = item.last_failure or ("", "")
    if item.pending is not None:
        what = "completion" if isinstance(item.pending, Complete) else "dead letter"
        detail = f"the broker has not accepted its {what} yet{': ' if detail else ''}{detail}"
    elif behind:
        detail = detail or "earlier messages of its key come first"
    elif lane.state is LaneState.RUNNING:
        detail = detail or "a worker executes it now"
    elif not detail:
        if isinstance(item.waits_for, EngineQueue):
            waits = item.waits_for.detail
        else:
            waits = "it waits for a limit of its route" if item.waits_for is not None else ""
        detail = "; ".join(source.gate.pause_reasons.values()) or waits
    step = None
    if item.decision is not None and item.next_step < len(item.decision.steps):
        step = item.decision.steps[item.next_step]
    return InFlightMessage(
        source.settings.name,
        MessageState.RETRYING if retrying else MessageState.QUEUED,
        message_id,
        str(item.delivery.position),
        _key(lane.key),
        time_of(now - (monotonic - item.received_at)),
        item.attempt,
        None if item.failed_at is None else time_of(now - (monotonic - item.failed_at)),
        next_try,
        behind,
        reason,
        detail,
        step.route if step is not None else item.pending_route,
    )


def _key(key: Hashable | None) -> str | None:
    if isinstance(key, bytes):
        return text_of(key)
    return key if isinstance(key, str) else None
