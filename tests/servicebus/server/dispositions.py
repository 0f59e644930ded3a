"""The outcome that a receiver sends: what it does to the message, and the outcome that answers it."""

from __future__ import annotations

import uuid
from typing import Any

from tests.servicebus.server.amqp import performatives
from tests.servicebus.server.amqp.performatives import ACCEPTED, REJECTED_BY_WISH, RELEASED
from tests.servicebus.server.amqp.values import Described
from tests.servicebus.server.entities import settlement
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import not_allowed


def settle(queue: Queue, token: uuid.UUID, state: Described | None) -> bytes:
    """The outcome to answer with, of the same kind: SDK 7.15 takes any other for a failure. Raises Refusal."""
    code = performatives.ACCEPTED_STATE if state is None else state.descriptor
    fields = state.value if state is not None and isinstance(state.value, list) else []
    if code == performatives.ACCEPTED_STATE:
        settlement.complete(queue, token)
        return ACCEPTED
    if code == performatives.RELEASED_STATE:
        settlement.release(queue, token)
        return RELEASED
    if code == performatives.MODIFIED_STATE:
        failed, undeliverable = (*fields, None, None)[:2]
        if undeliverable:
            settlement.defer(queue, token)
        else:
            settlement.abandon(queue, token)
        return performatives.modified(bool(failed), bool(undeliverable))
    if code == performatives.REJECTED_STATE:
        settlement.dead_letter(queue, token, *_cause(fields[0] if fields else None))
        return REJECTED_BY_WISH
    raise not_allowed(f"Outcome {code!r} is not known.")


def _cause(error: Any) -> tuple[str | None, str | None]:
    """Reason and description in a rejected outcome's error."""
    fields = error.value if isinstance(error, Described) and isinstance(error.value, list) else []
    _, description, info = (*fields, None, None, None)[:3]
    info = info if isinstance(info, dict) else {}
    return _text(info.get("DeadLetterReason")), _text(info.get("DeadLetterErrorDescription", description))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
