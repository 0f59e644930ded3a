"""Management node: operation dispatch, claims, and the format of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.servicebus.server.access.keys import LISTEN, MANAGE, SEND
from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.entities.topic import Topic
from tests.servicebus.server.errors import Refusal, not_allowed, refusal
from tests.servicebus.server.faults import Step
from tests.servicebus.server.management import messages, rules, schedule, sessions
from tests.servicebus.server.management.body import Answer, Body
from tests.servicebus.server.requests import Request, answer

if TYPE_CHECKING:
    from tests.servicebus.server.link import Link
    from tests.servicebus.server.state import State

NO_CONTENT = 204

_ON_QUEUES: dict[str, Callable[[Any, Body], Answer]] = {
    "renew-lock": messages.renew_lock,
    "peek-message": messages.peek,
    "receive-by-sequence-number": messages.receive_by_sequence_number,
    "update-disposition": messages.update_disposition,
    "renew-session-lock": sessions.renew_lock,
    "get-session-state": sessions.get_state,
    "set-session-state": sessions.set_state,
    "get-message-sessions": sessions.list_ids,
}
_ON_SUBSCRIPTIONS: dict[str, Callable[[Any, Body], Answer]] = {
    "add-rule": rules.add,
    "remove-rule": rules.remove,
    "enumerate-rules": rules.enumerate_rules,
}
_ON_ALL: dict[str, Callable[[Any, Body], Answer]] = {
    "schedule-message": schedule.schedule,
    "cancel-scheduled-message": schedule.cancel,
}


class ManagementNode:
    """Management node of one entity."""

    def __init__(self, state: State, path: str) -> None:
        self._state, self._path = state, path

    def on_message(self, link: Link, raw: bytes, format_: int) -> bool:
        request = Request(raw)
        operation = str(request.properties.get("operation", "")).removeprefix("com.microsoft:")
        self._state.counters.operations[operation] += 1
        try:
            self._state.faults.check_busy(self._path.lower())
            if link.session.connection.strikes(Step.MANAGE, self._path, link, operation):
                return False
            status, body = self._do(link, operation, Body(request.body or {}, request.raw_body))
            if link.session.connection.strikes(Step.MANAGED, self._path, link, operation):
                return False
            text = "NoContent" if status == NO_CONTENT else "OK"
            properties = [("statusCode", encoder.int32(status)), ("statusDescription", encoder.string(text))]
        except Refusal as no:
            body = encoder.mapping([])
            properties = [
                ("statusCode", encoder.int32(no.status)),
                ("statusDescription", encoder.string(no.description)),
                ("errorCondition", encoder.symbol(no.condition)),
            ]
        answer(link, request, properties, body)
        return True

    def _do(self, link: Link, operation: str, body: Body) -> Answer:
        """Run an operation. Raises: Refusal."""
        right = SEND if operation in _ON_ALL else MANAGE if operation in _ON_SUBSCRIPTIONS else LISTEN
        link.session.connection.claims.demand(self._path, right)
        limit = self._state.config.max_renewed_locks
        if operation == "renew-lock" and limit is not None and len(body.tokens()) > limit:
            raise Refusal("com.microsoft:argument-error", f"At most {limit} locks can be renewed in one request.")
        entity = self._state.namespace.find(self._path)
        if operation in _ON_ALL:
            return _ON_ALL[operation](entity, body)
        if isinstance(entity, Topic):
            raise not_allowed("This operation is not supported on a topic.")
        assert isinstance(entity, Queue)
        known = _ON_QUEUES.get(operation) or _ON_SUBSCRIPTIONS.get(operation)
        if known is None:
            raise refusal("amqp:not-implemented", f"Operation {operation!r} is not implemented.")
        return known(entity, body)
