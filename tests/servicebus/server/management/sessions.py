"""Operations on the sessions of a queue."""

from __future__ import annotations

from tests.servicebus.server.amqp.encoder import binary, int32, mapping, string, string_array, timestamp
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.entities.sessions import MessageSession, Sessions
from tests.servicebus.server.errors import not_allowed
from tests.servicebus.server.management.body import NO_CONTENT, OK, Answer, Body


def renew_lock(queue: Queue, body: Body) -> Answer:
    session = _held(queue, body)
    queue.counters.renewed_sessions[queue.key] += 1
    return OK, mapping([(string("expiration"), timestamp(_sessions(queue).renew(session)))])


def get_state(queue: Queue, body: Body) -> Answer:
    return OK, mapping([(string("session-state"), binary(_held(queue, body).state))])


def set_state(queue: Queue, body: Body) -> Answer:
    _held(queue, body).state = body.maybe("session-state", bytes)
    return OK, mapping([])


def list_ids(queue: Queue, body: Body) -> Answer:
    skip, top = body.maybe("skip", int) or 0, body.maybe("top", int) or 100
    page = _sessions(queue).ids()[skip : skip + top]
    if not page:
        return NO_CONTENT, mapping([])
    # The key is spelt so on the wire
    return OK, mapping([(string("skip"), int32(skip + len(page))), (string("sessions-ids"), string_array(page))])


def _sessions(queue: Queue) -> Sessions:
    if queue.sessions is None:
        raise not_allowed("The entity does not require sessions.")
    return queue.sessions


def _held(queue: Queue, body: Body) -> MessageSession:
    return _sessions(queue).held(body.one("session-id", str))
