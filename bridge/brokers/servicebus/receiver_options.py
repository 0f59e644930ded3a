"""Options of a subscription that only Service Bus has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sessions:
    """Options of session receivers.

    concurrent: sessions held at the same time. idle: seconds for which a session without messages is kept. turn:
    seconds after which a busy session makes room for the next.
    """

    concurrent: int = 8
    idle: float = 1.0
    turn: float = 30.0


@dataclass(frozen=True, slots=True)
class ServiceBusReceiverOptions:
    """Options of Service Bus receivers.

    sessions: None for entities without sessions. prefetch: messages that the service may send to a receiver in advance.
    receivers: number of receivers of an entity without sessions, each with its own connection. prefetch_bytes: encoded
    bytes waiting to be handed out, above which no receiver requests more.
    """

    sessions: Sessions | None = None
    prefetch: int = 100
    receivers: int = 1
    prefetch_bytes: int = 64 * 1024 * 1024
