"""What a server is made of. Durations are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.servicebus.server.access.keys import AccessKey
from tests.servicebus.server.entities.filters import MATCH_ALL, Rule
from tests.servicebus.server.entities.limits import PropertyLimits


class TokenVerifier(Protocol):
    """Knows whose bearer token it is and what they may do. `tests.servicebus.issuer` has one."""

    def rights(self, token: str, entity: str) -> tuple[frozenset[str], float]:
        """Rights on the entity, when the token ends (seconds since 1970). Raises PermissionError with the reason."""
        ...


@dataclass(frozen=True)
class QueueConfig:
    """duplicate_detection: how far back message ids are remembered; 0: not at all. default_ttl: None: for ever."""

    name: str
    lock_duration: float = 60.0
    max_delivery_count: int = 10
    requires_session: bool = False
    duplicate_detection: float = 0.0
    default_ttl: float | None = None
    dead_letter_on_expiration: bool = False


@dataclass(frozen=True)
class SubscriptionConfig:
    """rules: a message that matches any of them is taken, once."""

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
    """port: 0: a free one, kept when the server is started again. keys: none of them: claims are not asked for.

    certificate: a file with key and certificate; then the port speaks TLS. idle_timeout: announced to clients, who must
    be heard in this time; None: not. round_trip: added to what the network takes. clock_skew: seconds that the server's
    clock is ahead. max_message_size: bytes. websockets: the port speaks AMQP over WebSocket, as the service's 443 does.

    The next four are options because the service's behaviour is unknown or contradicts its documentation.
    locks_end_with_connection: an unsettled message is given back, counted, when the connection it came on ends.
    locks_end_with_link: when the link ends that it came on, whichever side ends it.
    max_renewed_locks: in one request. property_limits: on the properties of a message; None: none.
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
    """How long an attach for the next free session is held when the client does not say."""
