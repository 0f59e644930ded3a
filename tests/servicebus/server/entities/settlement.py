"""Settlement of a locked message: complete, abandon, defer, dead-letter, release; and lock renewal."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import message_lock_lost, message_not_found, not_allowed
from tests.servicebus.server.message import ACTIVE, DEFERRED, Message

Changes = Sequence[tuple[bytes, bytes]]
"""Application properties to set, as encoded names and values."""


def held(queue: Queue, token: uuid.UUID) -> Message:
    """Return the message under this lock. Raises: message-lock-lost."""
    message = queue.held(token)
    if message is None:
        queue.counters.lost_settlements[queue.key] += 1
        raise message_lock_lost()
    return message


def complete(queue: Queue, token: uuid.UUID) -> None:
    _unlock(queue, token, "complete")


def abandon(queue: Queue, token: uuid.UUID, changes: Changes = ()) -> None:
    """Abandon a message; its delivery count increases."""
    _check(queue, token, changes)
    message = _unlock(queue, token, "abandon")
    message.modify(list(changes))
    queue.give_back(message, counted=True)


def release(queue: Queue, token: uuid.UUID) -> None:
    """Release a message as if it had never been delivered."""
    queue.give_back(_unlock(queue, token, "release"), counted=False)


def defer(queue: Queue, token: uuid.UUID, changes: Changes = ()) -> None:
    _check(queue, token, changes)
    message = _unlock(queue, token, "defer")
    message.modify(list(changes))
    message.delivery_count += 1
    message.state, message.was_deferred = DEFERRED, True
    queue.deferred[message.sequence_number] = message


def dead_letter(
    queue: Queue, token: uuid.UUID, reason: str | None, description: str | None, changes: Changes = ()
) -> None:
    held(queue, token)
    if queue.dead_letters is None:
        raise not_allowed("A dead letter cannot be dead-lettered.")
    _check(queue, token, changes, reason, description)
    message = _unlock(queue, token, "dead_letter")
    message.modify(list(changes))
    queue.bury(message, reason, description)


def _check(
    queue: Queue, token: uuid.UUID, changes: Changes, reason: str | None = None, description: str | None = None
) -> None:
    """Check the size of the modified properties. Raises: Refusal when they are too large."""
    if queue.limits is None:
        return
    after = held(queue, token).copy()
    after.modify(list(changes))
    after.dead_letter_reason = reason or after.dead_letter_reason
    after.dead_letter_description = description or after.dead_letter_description
    queue.limits.check(after)


def renew(queue: Queue, token: uuid.UUID) -> int:
    """Renew a lock. Returns its new end in milliseconds."""
    message = held(queue, token)
    queue.counters.renewed_locks[queue.key] += 1
    return queue.start_lock(message)


def take_deferred(queue: Queue, sequence_numbers: list[int], *, lock: bool) -> list[Message]:
    """Receive deferred messages, all or none.

    Raises: message-not-found; session-lock-lost when no receiver holds the session of a message.
    """
    for number in sequence_numbers:
        if number not in queue.deferred:
            raise message_not_found(number)
        if queue.sessions is not None:
            queue.sessions.held(str(queue.deferred[number].session_id))
    taken = [queue.deferred.pop(number) for number in sequence_numbers]
    for message in taken:
        queue.counters.deliveries[queue.key] += 1
        if lock:
            queue.lock(message)
        else:
            message.state, message.token = ACTIVE, None
    return taken


def _unlock(queue: Queue, token: uuid.UUID, outcome: str) -> Message:
    message = held(queue, token)
    del queue.locked[token]
    if message.timer is not None:
        message.timer.cancel()
        message.timer = None
    if queue.sessions is not None:
        session = queue.sessions.get(str(message.session_id))
        session.locked.pop(token, None)
        queue.sessions.forget(session)
    message.token = None
    queue.counters.settled[f"{queue.key} {outcome}"] += 1
    return message
