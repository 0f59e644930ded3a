"""Whose question a message answers."""

from __future__ import annotations

import re

from bridge.envelope import Envelope
from bridge.errors import InvalidCommand
from bridge.routing.identifier import check_instance_id

HEADER = "correlation-id"
_CORRELATION_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}@(.+)", re.DOTALL)


def asked_by(envelope: Envelope) -> tuple[str, str]:
    """The correlation id of an answer and the id of the instance in it. Raises: InvalidCommand when it has none.

    An event under that whole id reaches nobody but the one wait that made the id, so that a message cannot tell
    instances anything that they did not ask for.
    """
    given = envelope.headers.get(HEADER)
    if given is None:
        raise InvalidCommand(f"the answer has no header `{HEADER}`; whoever answers has to repeat that of the request")
    found = _CORRELATION_ID.fullmatch(given)
    if found is None:
        raise InvalidCommand(f"the header `{HEADER}` is not one that the bridge gave to a request")
    return given, check_instance_id(found[1])
