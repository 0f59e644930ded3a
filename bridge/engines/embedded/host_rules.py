"""The bridge's rules for an embedded engine: early messages, redelivered messages, answers to requests, and sagas."""

from __future__ import annotations

import json

from bridge.core.answers import answered_by
from bridge.core.instance_protocol import may_replace, started_by
from bridge.core.origin import read_origin
from bridge.core.system_names import EARLY_MESSAGES, PREFIX, target_id
from bridge.sqlite_engine.options import HostRules

_ENDED_SAGA = ("compensated", "compensation_failed", "failed")
"""Statuses of a saga of the workflow kit that has handled its failure."""


class BridgeRules(HostRules):
    """Rules of the bridge. The entity with the early messages of an instance is its companion."""

    companion = EARLY_MESSAGES

    def companion_of(self, instance_id: str) -> str:
        return target_id(instance_id)

    def is_disposable(self, entity_name: str) -> bool:
        return entity_name.startswith(PREFIX)

    def may_replace(self, earlier: str, later: str) -> bool:
        return may_replace(read_origin(earlier), read_origin(later))

    def is_repeated_start(self, earlier: str, later: str) -> bool:
        return started_by(read_origin(earlier), read_origin(later).origin)

    def is_accepted_once(self, event_name: str) -> bool:
        return answered_by(event_name) is not None

    def is_repeated_event(self, earlier: str, later: str) -> bool:
        first, again = read_origin(earlier).origin, read_origin(later).origin
        return first is not None and again is not None and first.key == again.key

    def trace_of(self, event: str) -> str | None:
        origin = read_origin(event).origin
        return None if origin is None or origin.trace is None else origin.trace.traceparent

    def reason_against_rewind(self, custom_status: str) -> str | None:
        try:
            status = json.loads(custom_status)
        except (ValueError, RecursionError):  # no JSON, or nested deeper than the status of any saga
            return None
        if isinstance(status, dict) and "saga" in status and status.get("status") in _ENDED_SAGA:
            return (
                f"its saga has handled the failure (status {status['status']}), and no step failed after that. "
                "Start it anew, or restart it"
            )
        return None
