"""The request that a message answers."""

from __future__ import annotations

from bridge.answers import CORRELATION_ID, parse, reply_event
from bridge.envelope import Envelope
from bridge.errors import InvalidCommand, UnexpectedReply
from bridge.routing.identifier import check_instance_id


def asked_by(envelope: Envelope) -> tuple[str, str]:
    """The event that brings an answer, and the id of the instance that asked.

    The event carries the whole correlation id, so that its signature can be checked before it is raised, and it reaches
    nobody but the one wait that made the id.

    Raises: InvalidCommand when the message has no correlation id, UnexpectedReply when it has another's.
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
