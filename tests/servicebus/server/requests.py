"""Requests to a node and answers to them, in the form shared by $cbs and $management."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.servicebus.server.amqp import encoder
from tests.servicebus.server.amqp.decoder import decode, elements
from tests.servicebus.server.amqp.encoder import NULL
from tests.servicebus.server.amqp.values import Malformed
from tests.servicebus.server.message import APPLICATION_PROPERTIES, PROPERTIES, VALUE, sections
from tests.servicebus.server.outgoing import OutgoingLink

if TYPE_CHECKING:
    from tests.servicebus.server.link import Link


class Request:
    """Request to a node. message_id: encoded, since the answer must have the same type. Raises: Malformed."""

    def __init__(self, raw: bytes) -> None:
        self.message_id = NULL
        self.reply_to: str | None = None
        self.properties: dict[str, Any] = {}
        self.body: Any = None
        self.raw_body = b""
        for code, _, value, end in sections(raw):
            if code == PROPERTIES:
                fields = elements(raw, value)
                self.message_id = fields[0] if fields else NULL
                self.reply_to = decode(fields[4])[0] if len(fields) > 4 else None
            elif code == APPLICATION_PROPERTIES:
                self.properties = decode(raw, value)[0]
            elif code == VALUE:
                self.body, self.raw_body = decode(raw, value)[0], raw[value:end]
        if not isinstance(self.properties, dict):
            raise Malformed("application properties that are no map")


def answer(link: Link, request: Request, properties: list[tuple[str, bytes]], body: bytes) -> None:
    """Answer on a link of the same session and node; among several on the link that the request names."""
    links = [
        other
        for other in link.session.links.values()
        if isinstance(other, OutgoingLink) and other.key == link.key and other.attached
    ]
    if not links:
        return
    named = [other for other in links if request.reply_to is not None and other.reply_address == request.reply_to]
    fields = encoder.sequence([NULL, NULL, NULL, NULL, NULL, request.message_id])
    own = encoder.mapping([(encoder.string(name), value) for name, value in properties])
    (named or links)[0].reply(
        encoder.described(PROPERTIES, fields)
        + encoder.described(APPLICATION_PROPERTIES, own)
        + encoder.described(VALUE, body)
    )
