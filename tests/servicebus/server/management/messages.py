"""Operations on messages of a queue: renew locks, peek, receive deferred messages, settle."""

from __future__ import annotations

from tests.servicebus.server.amqp.encoder import binary, guid, mapping, sequence, string, timestamp_array
from tests.servicebus.server.entities import settlement
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import Refusal
from tests.servicebus.server.management.body import NO_CONTENT, OK, Answer, Body

DELETE = 0
"""Receiver settle mode that removes messages at delivery."""


def renew_lock(queue: Queue, body: Body) -> Answer:
    tokens = body.tokens()
    for token in tokens:
        settlement.held(queue, token)
    ends = [settlement.renew(queue, token) for token in tokens]
    return OK, mapping([(string("expirations"), timestamp_array(ends))])


def peek(queue: Queue, body: Body) -> Answer:
    first, count = body.one("from-sequence-number", int), body.one("message-count", int)
    found = queue.browse(first, count, body.maybe("session-id", str))
    if not found:
        return NO_CONTENT, mapping([])
    rows = [mapping([(string("message"), binary(message.encode(peeked=True)))]) for message in found]
    return OK, mapping([(string("messages"), sequence(rows))])


def receive_by_sequence_number(queue: Queue, body: Body) -> Answer:
    session_id = body.maybe("session-id", str)
    if queue.sessions is not None and session_id is not None:
        queue.sessions.held(session_id)
    lock = body.maybe("receiver-settle-mode", int) != DELETE
    rows = []
    for message in settlement.take_deferred(queue, body.sequence_numbers(), lock=lock):
        row = [(string("lock-token"), guid(message.token))] if lock else []
        row.append((string("message"), binary(message.encode())))
        rows.append(mapping(row))
    return OK, mapping([(string("messages"), sequence(rows))])


def update_disposition(queue: Queue, body: Body) -> Answer:
    """Settle messages; all locks are checked before the first settlement."""
    changes = body.raw_map("properties-to-modify")
    status, tokens, session_id = body.one("disposition-status", str), body.tokens(), body.maybe("session-id", str)
    if session_id is not None and queue.sessions is not None:
        queue.sessions.held(session_id)
    for token in tokens:
        settlement.held(queue, token)
    for token in tokens:
        if status == "completed":
            settlement.complete(queue, token)
        elif status == "abandoned":
            settlement.abandon(queue, token, changes)
        elif status in ("defered", "deferred"):
            settlement.defer(queue, token, changes)
        elif status == "suspended":
            reason, description = body.maybe("deadletter-reason", str), body.maybe("deadletter-description", str)
            settlement.dead_letter(queue, token, reason, description, changes)
        else:
            raise Refusal("com.microsoft:argument-error", f"disposition-status {status!r} is not known.")
    return OK, mapping([])
