"""Dispositions of receivers: the settlement and the outcome that confirms it."""

from __future__ import annotations

import uuid
from typing import Any

from tests.servicebus.server.amqp import performatives
from tests.servicebus.server.amqp.decoder import decode, elements, pairs, skip
from tests.servicebus.server.amqp.performatives import ACCEPTED, REJECTED_BY_WISH, RELEASED
from tests.servicebus.server.amqp.values import Described
from tests.servicebus.server.entities import settlement
from tests.servicebus.server.entities.queue import Queue
from tests.servicebus.server.errors import not_allowed
from tests.servicebus.server.message import DESCRIPTION, REASON


def settle(queue: Queue, token: uuid.UUID, state: Described | None, raw: bytes) -> bytes:
    """Settle a message and return the outcome that confirms it.

    SDK 7.15 treats an outcome of another kind as a failure. raw: the encoded state, which keeps the types of properties
    to modify. Raises: Refusal.
    """
    code = performatives.ACCEPTED_STATE if state is None else state.descriptor
    fields = state.value if state is not None and isinstance(state.value, list) else []
    if code == performatives.ACCEPTED_STATE:
        settlement.complete(queue, token)
        return ACCEPTED
    if code == performatives.RELEASED_STATE:
        settlement.release(queue, token)
        return RELEASED
    if code == performatives.MODIFIED_STATE:
        failed, undeliverable, annotations = (*fields, None, None, None)[:3]
        changes = pairs(_inside(raw)[2]) if isinstance(annotations, dict) else []
        if undeliverable:
            settlement.defer(queue, token, changes)
        else:
            settlement.abandon(queue, token, changes)
        return performatives.modified(bool(failed), bool(undeliverable))
    if code == performatives.REJECTED_STATE:
        settlement.dead_letter(queue, token, *_cause(fields[0] if fields else None), _others(fields, raw))
        return REJECTED_BY_WISH
    raise not_allowed(f"Outcome {code!r} is not known.")


def _cause(error: Any) -> tuple[str | None, str | None]:
    """Return reason and description from the error of a rejected outcome."""
    fields = error.value if isinstance(error, Described) and isinstance(error.value, list) else []
    _, description, info = (*fields, None, None, None)[:3]
    info = info if isinstance(info, dict) else {}
    return _text(info.get(REASON)), _text(info.get(DESCRIPTION, description))


def _others(fields: list[Any], raw: bytes) -> list[tuple[bytes, bytes]]:
    """Return the properties to modify from the error of a rejected outcome; reason and description are excluded."""
    error = fields[0] if fields else None
    if not isinstance(error, Described) or not isinstance(error.value, list) or len(error.value) < 3:
        return []
    if not isinstance(error.value[2], dict):
        return []
    info = pairs(_inside(_inside(raw)[0])[2])
    return [pair for pair in info if decode(pair[0])[0] not in (REASON, DESCRIPTION)]


def _inside(raw: bytes) -> list[bytes]:
    """Return the encoded fields of a described list."""
    return elements(raw, skip(raw, 1))


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
