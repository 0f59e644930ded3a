"""The bridge's rules for an embedded engine: early messages, redelivered messages, answers to requests, and sagas."""

from __future__ import annotations

import json

from bridge.core.answers import answered_by
from bridge.core.instance_protocol import may_replace, started_by
from bridge.core.origin import read_origin
from bridge.core.system_names import EARLY_MESSAGES, PREFIX, SAGA, target_id
from bridge.engines.sagas import declared_name, saga_end
from bridge.sqlite_engine.options import HostRules
from bridge.sqlite_engine.storage.counts import OTHER

MAX_SAGAS = 1000
"""Names of sagas that one process counts apart. Further ones are counted under the name OTHER."""

_ENDED_SAGA = ("compensated", "compensation_failed", "failed")
"""Statuses of a saga of the workflow kit that has handled its failure."""


class BridgeRules(HostRules):
    """Rules of the bridge. The entity with the early messages of an instance is its companion."""

    companion = EARLY_MESSAGES
    sagas = frozenset({SAGA})

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

    def __init__(self) -> None:
        self._sagas: set[str] = set()

    def saga_of(self, input_: str) -> str | None:
        found = declared_name(input_)
        return None if found is None else self._bounded(found)

    def saga_end(self, saga: str | None, custom_status: str | None, status: int) -> tuple[str, str] | None:
        end = saga_end(custom_status, status, saga)
        return None if end is None else (self._bounded(end.saga), end.outcome)

    def _bounded(self, saga: str) -> str:
        """Name under which a saga is counted: code may make a name for each instance."""
        if saga not in self._sagas:
            if len(self._sagas) >= MAX_SAGAS:
                return OTHER
            self._sagas.add(saga)
        return saga

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
