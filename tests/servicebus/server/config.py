"""Configuration of a server. Durations are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.entities.filters import MATCH_ALL, Rule
from tests.servicebus.server.entities.limits import PropertyLimits


class TokenVerifier(Protocol):
    """Verifier of bearer tokens and of their rights; `tests.servicebus.issuer` implements it."""

    def rights(self, token: str, entity: str) -> tuple[frozenset[str], float]:
        """Return the rights on the entity and the end of the token (seconds since 1970).

        Raises: PermissionError with the reason.
        """
        ...


@dataclass(frozen=True)
class QueueConfig:
    """Queue settings. duplicate_detection: window for message ids; 0: off. default_ttl: None: no expiry."""

    name: str
    lock_duration: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = False
    duplicate_detection: float = 0.0
    default_ttl: float | None = None
    dead_letter_on_expiration: bool = False


@dataclass(frozen=True)
class SubscriptionConfig:
    """Subscription settings. rules: a message that matches at least one of them is stored once."""

    name: str
    lock_duration: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = False
    default_ttl: float | None = None
    dead_letter_on_expiration: bool = False
    rules: tuple[Rule, ...] = (MATCH_ALL,)


@dataclass(frozen=True)
class TopicConfig:
    name: str
    subscriptions: tuple[SubscriptionConfig, ...] = ()
    duplicate_detection: float = 0.0
    default_ttl: float | None = None


ROOT_KEY = AccessKey("RootManageSharedAccessKey", "SAS_KEY_VALUE")


@dataclass(frozen=True)
class ServerConfig:
    """Settings of a server.

    port: 0: a free one, kept when the server restarts. keys: empty: no claims are required. certificate: a file with
    key and certificate; the port then speaks TLS. idle_timeout: announced to clients, which must send a frame within
    this time; None: off. round_trip: added to the network latency. clock_skew: seconds ahead of the machine's clock.
    max_message_size: bytes. websockets: the port speaks AMQP over WebSocket, as port 443 of the service does.

    The next four options exist because the service's behaviour is unknown or contradicts its documentation.
    locks_end_with_connection: an unsettled message is abandoned, with an increased delivery count, when its connection
    ends. locks_end_with_link: the same when its link ends, whichever side ends it. max_renewed_locks: per request.
    property_limits: on the properties of a message; None: no limits.
    """

    queues: tuple[QueueConfig, ...] = ()
    topics: tuple[TopicConfig, ...] = ()
    host: str = "127.0.0.1"
    port: int = 0
    keys: tuple[AccessKey, ...] = (ROOT_KEY,)
    verifier: TokenVerifier | None = None
    certificate: Path | None = None
    idle_timeout: float | None = None
    round_trip: float = 0.0
    clock_skew: float = 0.0
    max_message_size: int = 262_144
    websockets: bool = False
    locks_end_with_connection: bool = False
    locks_end_with_link: bool = False
    max_renewed_locks: int | None = None
    property_limits: PropertyLimits | None = None
    session_wait: float = field(default=65.0)
    """Seconds that an attach for the next free session waits when the client states no timeout."""
