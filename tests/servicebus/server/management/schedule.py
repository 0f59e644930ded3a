"""Operations that schedule messages and cancel scheduled messages."""

from __future__ import annotations

from tests.servicebus.server.amqp.encoder import int64_array, mapping, string
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.server.entities.namespace import Entity
from tests.servicebus.server.errors import Refusal
from tests.servicebus.server.management.body import OK, Answer, Body
from tests.servicebus.server.message import Message


def schedule(entity: Entity, body: Body) -> Answer:
    """Schedule messages, all or none."""
    try:
        messages = [Message(Body(row).one("message", bytes)) for row in body.many("messages", dict)]
    except Malformed as problem:
        raise Refusal("amqp:decode-error", str(problem)) from None
    for message in messages:
        entity.check(message)
    numbers = [entity.accept(message) for message in messages]
    return OK, mapping([(string("sequence-numbers"), int64_array(numbers))])


def cancel(entity: Entity, body: Body) -> Answer:
    entity.cancel(body.sequence_numbers())
    return OK, mapping([])
