"""Correlation of answers with requests."""

from __future__ import annotations

from bridge.core.answers import CORRELATION_ID, parse, reply_event
from bridge.core.envelope import Envelope
from bridge.core.errors import InvalidCommand, UnexpectedReply
from bridge.routing.identifier import check_instance_id


def asked_by(envelope: Envelope) -> tuple[str, str]:
    """Event that carries an answer, and the id of the instance that sent the request.

    The event name contains the whole correlation id. Its signature can thus be checked before the event is raised,
    and the event reaches only the wait that made the id.
    Raises: InvalidCommand if the message has no correlation id; UnexpectedReply if the id is not one of the bridge.
    """
    given = envelope.headers.get(CORRELATION_ID)
    if given is None:
        raise InvalidCommand(
            f"the answer has no header `{CORRELATION_ID}`; a service has to repeat that of the request"
        )
    found = parse(given)
    if found is None:
        raise UnexpectedReply(f"the header `{CORRELATION_ID}` is not one that the bridge gave to a request")
    return reply_event(given), check_instance_id(found.instance_id)
