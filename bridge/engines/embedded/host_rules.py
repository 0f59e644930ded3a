"""The bridge's rules for an embedded engine: early messages, repeats, answers to requests, sagas, lineage."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from bridge.core.answers import PUBLISH_ACTIVITY, answered_by
from bridge.core.errors import EngineError
from bridge.core.instance_protocol import may_replace, started_by
from bridge.core.lineage.records import COMMAND_RECORD, DEAD_LETTER_RECORD, ordering_keys, stored_ids
from bridge.core.origin import Unwrapped, ids_of, index_ids, may_be_wrapped, read_origin
from bridge.core.system_names import (
    DEAD_LETTER,
    EARLY_MESSAGES,
    JOB_STEP,
    LINEAGE,
    PREFIX,
    QUARANTINE,
    SAGA,
    WORKLOAD,
    target_id,
)
from bridge.engines.sagas import declared_name, is_name, saga_end
from bridge.large_payloads.files import PayloadFiles
from bridge.large_payloads.reference import is_reference, payload_head
from bridge.sqlite_engine.options import HostRules, Record
from bridge.sqlite_engine.storage.counts import OTHER

log = structlog.get_logger("bridge.engine")

_PUBLISHED = re.compile(r'\s*\{\s*"target"\s*:\s*"[^"\\]*"\s*,\s*"id"\s*:\s*"([^"\\]*)"')
"""Beginning of the input of the publish activity, as `bridge.workflow.publish` makes it."""

_MEMBERS = {EARLY_MESSAGES: "items", QUARANTINE: "held"}
"""Member with the messages in the state of each entity that keeps some."""

MAX_SAGAS = 1000
"""Names of sagas that one process counts apart. Further ones are counted under the name OTHER."""

_ENDED_SAGA = ("compensated", "compensation_failed", "failed")
"""Statuses of a saga of the workflow kit that has handled its failure."""


class BridgeRules(HostRules):
    """Rules of the bridge. The entity with the early messages of an instance is its companion."""

    companion = EARLY_MESSAGES
    sagas = frozenset({SAGA})
    never_alone = frozenset({JOB_STEP})
    index = LINEAGE
    workload = WORKLOAD

    def __init__(self, files: PayloadFiles | None = None) -> None:
        """Create the rules. files: large payloads of the engine; None where there are none."""
        self._sagas: set[str] = set()
        self._files = files

    def companion_of(self, instance_id: str) -> str:
        return target_id(instance_id)

    def is_disposable(self, entity_name: str) -> bool:
        return entity_name.startswith(PREFIX)

    def may_replace(self, earlier: str, later: str) -> bool:
        return may_replace(self._content(earlier), self._content(later))

    def is_repeated_start(self, earlier: str, later: str) -> bool:
        return started_by(self._content(earlier), self._content(later).origin)

    def is_accepted_once(self, event_name: str) -> bool:
        return answered_by(event_name) is not None

    def is_repeated_event(self, earlier: str, later: str) -> bool:
        first, again = self._content(earlier).origin, self._content(later).origin
        return first is not None and again is not None and first.key == again.key

    def trace_of(self, event: str) -> str | None:
        origin = self._content(event).origin
        return None if origin is None or origin.trace is None else origin.trace.traceparent

    def _content(self, text: str) -> Unwrapped:
        """Origin and inbox of an input or event. A large one is read whole only where its head has not all of them."""
        if not is_reference(text):
            return read_origin(text)
        head = payload_head(text)
        found = read_origin(head)
        if found.origin is not None or self._files is None or not may_be_wrapped(head):
            return found
        try:
            return read_origin(self._files.restore(text))
        except EngineError as error:
            log.warning(f"the origin of a message cannot be read: {error}", action="payload")
            return found

    def saga_of(self, input_: str) -> str | None:
        found = declared_name(input_)
        return None if found is None else self._bounded(found)

    def saga_end(self, saga: str | None, custom_status: str | None, status: int) -> tuple[str, str] | None:
        end = saga_end(custom_status, status, saga)
        if end is None:
            return None
        # Code may make a name from payload; the name of a declared saga comes from the configuration
        return (self._bounded(end.saga) if end.saga == saga or is_name(end.saga) else OTHER), end.outcome

    def _bounded(self, saga: str) -> str:
        """Name under which a saga is counted: code may make a name for each instance."""
        if saga not in self._sagas:
            if len(self._sagas) >= MAX_SAGAS:
                return OTHER
            self._sagas.add(saga)
        return saga

    def ids_of_start(self, orchestration: str, given: str) -> Iterable[str]:
        if orchestration == DEAD_LETTER:
            item = _object(given).get("item")
            return stored_ids(item) if isinstance(item, dict) else ()
        return self.ids_of_event(given)

    def ids_of_event(self, given: str) -> Iterable[str]:
        found = ids_of(payload_head(given))
        return () if found is None else index_ids(*found)

    def ids_of_activity(self, activity: str, given: str) -> Iterable[str]:
        if activity != PUBLISH_ACTIVITY:
            return ()
        given = payload_head(given)
        found = _PUBLISHED.match(given)
        id_ = _object(given).get("id") if found is None else found[1]
        return (id_,) if isinstance(id_, str) else ()

    def ids_of_operation(self, entity_name: str, operation: str, given: str) -> Iterable[str]:
        if entity_name == EARLY_MESSAGES:
            return stored_ids(_object(given)) if operation == "park" else ()
        if entity_name != QUARANTINE or operation not in ("hold", "follow"):
            return ()
        value = _object(given)
        item = value.get("item")
        return (*(stored_ids(item) if isinstance(item, dict) else ()), *ordering_keys(value))

    def ids_of_state(self, entity_name: str, state: str) -> Iterable[str]:
        member = _MEMBERS.get(entity_name)
        if member is None:
            return ()
        value = _object(state)
        return (*(id_ for item in value.get(member, ()) for id_ in stored_ids(item)), *ordering_keys(value))

    def record_of_operation(self, entity_id: str, operation: str, given: str) -> Record | None:
        if entity_id.startswith(f"@{PREFIX}"):
            return None
        origin = self._content(given).origin
        if origin is None:
            return None
        body = {
            "id": origin.message_id, "route": origin.route, "part": origin.part, "position": origin.position,
            "entity": entity_id, "command": f"signal {operation}",
        }  # fmt: skip
        return Record(COMMAND_RECORD, frozenset(index_ids(origin.message_id, origin.position)), json.dumps(body))

    def record_of(self, given: str) -> Record | None:
        body = _object(given)
        id_, position = (value if isinstance(value, str) else None for value in map(body.get, ("id", "position")))
        ids = frozenset(index_ids(id_, position))
        kind = COMMAND_RECORD if "command" in body else DEAD_LETTER_RECORD
        return Record(kind, ids, json.dumps(body)) if ids else None

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


def _object(text: str) -> Mapping[str, Any]:
    """JSON object of a text; empty for any other text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
