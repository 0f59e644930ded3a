"""What a subscription may want of Service Bus and of no other broker."""

from __future__ import annotations

from dataclasses import dataclass

from bridge.brokers.base import SubscribeOptions


@dataclass(frozen=True, slots=True)
class Sessions:
    """concurrent: sessions held at the same time. idle: seconds that one without messages is kept. turn: seconds after
    which a busy one makes room for the next.
    """

    concurrent: int = 8
    idle: float = 1.0
    turn: float = 30.0


@dataclass(frozen=True, slots=True)
class ServiceBusReceiverOptions:
    """sessions: None for entities without. prefetch: messages that a receiver has under way to us. receivers: how many
    there are of an entity without sessions, each with its own connection. prefetch_bytes: encoded bytes that wait to be
    handed out, above which no receiver asks for more.
    """

    sessions: Sessions | None = None
    prefetch: int = 100
    receivers: int = 1
    prefetch_bytes: int = 64 * 1024 * 1024

    @classmethod
    def of(cls, options: SubscribeOptions) -> ServiceBusReceiverOptions:
        """Those of the options, or the defaults. Raises: TypeError for another broker's."""
        receiver_options = options.broker_options
        if receiver_options is None:
            return cls()
        if not isinstance(receiver_options, cls):
            raise TypeError(f"{type(receiver_options).__name__} are not wishes that Service Bus understands")
        return receiver_options
