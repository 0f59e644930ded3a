"""Operations on the sessions of a queue."""

from __future__ import annotations

from tests.servicebus.server.amqp.encoder import binary, int32, mapping, string, string_array, timestamp
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.entities.sessions import MessageSession, Sessions
from tests.servicebus.server.errors import not_allowed
from tests.servicebus.server.management.body import NO_CONTENT, OK, Answer, Body

END_OF_TIME = 253_402_300_800_000
"""Year 10000, in milliseconds since 1970."""


def renew_lock(queue: Queue, body: Body) -> Answer:
    session = _held(queue, body)
    queue.counters.renewed_sessions[queue.key] += 1
    return OK, mapping([(string("expiration"), timestamp(_sessions(queue).renew(session)))])


def get_state(queue: Queue, body: Body) -> Answer:
    return OK, mapping([(string("session-state"), binary(_held(queue, body).state))])


def set_state(queue: Queue, body: Body) -> Answer:
    _sessions(queue).set_state(_held(queue, body), body.maybe("session-state", bytes))
    return OK, mapping([])


def list_ids(queue: Queue, body: Body) -> Answer:
    """List session ids. Without a time, or with one past the year 9999: the sessions with messages or a state."""
    skip, top = body.maybe("skip", int) or 0, body.maybe("top", int) or 100
    since = body.maybe("last-updated-time", int)
    page = _sessions(queue).ids(None if since is None or since >= END_OF_TIME else since)[skip : skip + top]
    if not page:
        return NO_CONTENT, mapping([])
    # Member name as spelt on the wire
    return OK, mapping([(string("skip"), int32(skip + len(page))), (string("sessions-ids"), string_array(page))])


def _sessions(queue: Queue) -> Sessions:
    if queue.sessions is None:
        raise not_allowed("The entity does not require sessions.")
    return queue.sessions


def _held(queue: Queue, body: Body) -> MessageSession:
    return _sessions(queue).held(body.one("session-id", str))
