"""Configuration specific to Azure Service Bus: the broker, and options of its sources and targets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from bridge.config.model.types import Duration, Integer, Model

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_DOMAIN = ".servicebus.windows.net"

EMULATOR_CONNECTIONS = 10
"""Maximum number of connections that the official emulator accepts."""


def _check_namespace(value: str) -> str:
    host = value.strip().removeprefix("sb://").rstrip("/")
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"a namespace is written NAME or NAME{_DOMAIN}")
    return host if "." in host else host + _DOMAIN


def _check_endpoint(value: str) -> str:
    if re.fullmatch(r"(sb://)?[A-Za-z0-9.-]+:\d{1,5}", value) is None:
        raise ValueError("an endpoint is written HOST:PORT")
    return value if value.startswith("sb://") else f"sb://{value}"


class ServiceBusSasConfig(Model):
    """A shared access policy, or a signature made with one."""

    name: str | None = Field(None, min_length=1, description="Name of the policy.")
    key: SecretStr | None = Field(None, description="Its key.")
    signature: SecretStr | None = Field(None, description="A ready token, `SharedAccessSignature sr=...`, instead.")

    @model_validator(mode="after")
    def _complete(self) -> ServiceBusSasConfig:
        if (self.signature is None) == (self.name is None or self.key is None):
            raise ValueError("needs `name` and `key`, or `signature` alone")
        return self


class ServiceBusTlsConfig(Model):
    """TLS, which is always on except for the emulator."""

    ca: str | None = Field(None, min_length=1, description="File of the authorities that are trusted, PEM.")


class ServiceBusBrokerConfig(Model):
    """A namespace of Azure Service Bus, or the emulator. Needs the extra `servicebus`."""

    type: Literal["servicebus"] = Field(description="The kind of broker.")
    namespace: Annotated[str, AfterValidator(_check_namespace)] | None = Field(
        None, description=f"Name of the namespace; `{_DOMAIN}` may be left out."
    )
    connection_string: SecretStr | None = Field(
        None, description="Instead of `namespace`: a connection string, the emulator's too."
    )
    credential: Literal["default", "managed_identity", "workload_identity", "environment", "cli"] = Field(
        "default", description="Who we are to Microsoft Entra ID; `default` tries all of them in turn."
    )
    client_id: str | None = Field(
        None, min_length=1, description="Client id of a user-assigned managed identity, or of the workload identity."
    )
    sas: ServiceBusSasConfig | None = Field(None, description="Shared access instead of Entra ID.")
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = Field(
        None, description="`host:port` to connect to instead of the namespace's own address."
    )
    websockets: bool = Field(False, description="AMQP over WebSockets, port 443, where 5671 is closed; it is slower.")
    tls: ServiceBusTlsConfig | None = Field(None, description="TLS; null: what the system trusts.")
    cloudevents_prefix: Literal["cloudEvents_", "cloudEvents:"] = Field(
        "cloudEvents_", description="Before the attributes of binary CloudEvents that are published; both are read."
    )
    connections: Integer | None = Field(
        None,
        ge=1,
        description="Connections that the namespace takes; sources with sessions share what others leave. null: 10 "
        "with the connection string of an emulator, else as many as are wanted.",
    )
    request_timeout: Duration = Field(20.0, ge=1, description="Deadline of one request: open, settle, renew.")
    publish_timeout: Duration = Field(30.0, gt=0, description="Deadline of one publish, dead letters among them.")

    @property
    def most_connections(self) -> int | None:
        """Maximum number of connections to the namespace; None for no limit."""
        if self.connections is None and self.connection_string is not None:
            parts = self.connection_string.get_secret_value().replace(" ", "").lower().split(";")
            return EMULATOR_CONNECTIONS if "usedevelopmentemulator=true" in parts else None
        return self.connections

    @model_validator(mode="after")
    def _require_single_auth(self) -> ServiceBusBrokerConfig:
        if (self.namespace is None) == (self.connection_string is None):
            raise ValueError("needs `namespace` or `connection_string`, and not both")
        if self.connection_string is not None and self.sas is not None:
            raise ValueError("`sas` goes with `namespace`; a connection string has its own key")
        if self.sas is not None and self.client_id is not None:
            raise ValueError("`client_id` is for Entra ID, and `sas` is used instead of it")
        return self


class SessionsConfig(Model):
    """Reading of a queue or subscription with sessions. `sessions: true` uses the defaults."""

    concurrent: Integer = Field(8, ge=1, le=1000, description="Sessions that are held at the same time.")
    idle: Duration = Field(1.0, gt=0, description="How long a session without messages is kept.")
    turn: Duration = Field(30.0, gt=0, description="After this time a busy session makes room for the next one.")


def sessions(value: Any) -> Any:
    """Convert `true` and `false` to the long form."""
    if isinstance(value, bool):
        return {} if value else None
    return value


Sessions = Annotated[SessionsConfig | None, BeforeValidator(sessions)]


class ServiceBusSourceConfig(Model):
    """Options of Service Bus sources, in addition to `queue`, `topic`, `subscription`, `sub_queue` and `sessions`."""

    prefetch: Integer = Field(100, ge=1, le=5000, description="Messages that a receiver has under way to us.")
    receivers: Integer = Field(1, ge=1, le=64, description="Receivers, each with its own connection.")
    max_hold: Duration = Field(
        300.0,
        gt=0,
        description="Longest wait for a retry under a renewed lock; a longer wait continues on the engine if the "
        "source has a `dead_letter`.",
    )


class ServiceBusTargetConfig(Model):
    """Options of Service Bus targets."""

    key: Literal["session", "partition", "none"] = Field(
        "session", description="What the key of a message becomes: its session id, its partition key, or nothing."
    )
    time_to_live: Duration | None = Field(None, gt=0, description="How long messages live, unless they say otherwise.")
