"""Limits of the service on the properties of a message."""

from __future__ import annotations

from dataclasses import dataclass

from tests.servicebus.server.amqp.decoder import pairs, skip
from tests.servicebus.server.errors import unprocessable
from tests.servicebus.server.message import Message


@dataclass(frozen=True)
class PropertyLimits:
    """Size limits in encoded bytes.

    each: one application property. total: all properties, including system properties.
    """

    each: int = 32 * 1024
    total: int = 64 * 1024

    def check(self, message: Message) -> None:
        """Check the properties of a message. Raises: Refusal, as the service answers."""
        raw = message.encode_application_properties()
        sizes = [len(value) for _, value in (pairs(raw, skip(raw, 1)) if raw else ())]
        annotations = sum(len(key) + len(value) for key, value in message.annotations)
        total = len(raw) + len(message.properties) + annotations
        if total > self.total or any(size > self.each for size in sizes):
            raise unprocessable()
