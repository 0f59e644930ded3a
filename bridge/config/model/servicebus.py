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
    key: SecretStr | None = Field(None, description="Key of the policy.")
    signature: SecretStr | None = Field(
        None, description="Ready token, `SharedAccessSignature sr=...`, instead of name and key."
    )

    @model_validator(mode="after")
    def _complete(self) -> ServiceBusSasConfig:
        if (self.signature is None) == (self.name is None or self.key is None):
            raise ValueError("needs `name` and `key`, or `signature` alone")
        return self


class ServiceBusTlsConfig(Model):
    """TLS, which is always on except for the emulator."""

    ca: str | None = Field(None, min_length=1, description="PEM file of the trusted authorities.")


class ServiceBusBrokerConfig(Model):
    """A namespace of Azure Service Bus, or the emulator. Needs the extra `servicebus`."""

    type: Literal["servicebus"] = Field(description="Kind of broker.")
    namespace: Annotated[str, AfterValidator(_check_namespace)] | None = Field(
        None, description=f"Name of the namespace; `{_DOMAIN}` may be left out."
    )
    connection_string: SecretStr | None = Field(
        None, description="Connection string, instead of `namespace`. An emulator has one too."
    )
    credential: Literal["default", "managed_identity", "workload_identity", "environment", "cli"] = Field(
        "default", description="Credential for Microsoft Entra ID; `default` tries all kinds in turn."
    )
    client_id: str | None = Field(
        None, min_length=1, description="Client id of a user-assigned managed identity, or of the workload identity."
    )
    sas: ServiceBusSasConfig | None = Field(None, description="Shared access signature, instead of Entra ID.")
    endpoint: Annotated[str, AfterValidator(_check_endpoint)] | None = Field(
        None, description="`host:port` to connect to instead of the namespace's own address."
    )
    websockets: bool = Field(
        False, description="Use AMQP over WebSockets (port 443), where port 5671 is closed; it is slower."
    )
    tls: ServiceBusTlsConfig | None = Field(None, description="TLS settings; null: the system's trusted authorities.")
    cloudevents_prefix: Literal["cloudEvents_", "cloudEvents:"] = Field(
        "cloudEvents_", description="Prefix of the attributes of published binary CloudEvents; both prefixes are read."
    )
    connections: Integer | None = Field(
        None,
        ge=1,
        description="Maximum number of connections to the namespace; sources with sessions share those that "
        "others leave. null: 10 with the connection string of an emulator, else no limit.",
    )
    request_timeout: Duration = Field(20.0, ge=1, description="Deadline of one request: open, settle, renew.")
    publish_timeout: Duration = Field(30.0, gt=0, description="Deadline of one publish; also for dead letters.")

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
            raise ValueError("`sas` needs `namespace`; a connection string has its own key")
        if self.sas is not None and self.client_id is not None:
            raise ValueError("`client_id` is for Entra ID, but `sas` is configured")
        return self


class SessionsConfig(Model):
    """Reading of a queue or subscription with sessions. `sessions: true` uses the defaults."""

    concurrent: Integer = Field(8, ge=1, le=1000, description="Sessions that are held at the same time.")
    idle: Duration = Field(1.0, gt=0, description="Time that a session without messages is kept.")
    turn: Duration = Field(30.0, gt=0, description="Time after which a busy session is released for another one.")


def sessions(value: Any) -> Any:
    """Convert `true` and `false` to the long form."""
    if isinstance(value, bool):
        return {} if value else None
    return value


Sessions = Annotated[SessionsConfig | None, BeforeValidator(sessions)]


class ServiceBusSourceConfig(Model):
    """Options of Service Bus sources, in addition to `queue`, `topic`, `subscription`, `sub_queue` and `sessions`."""

    prefetch: Integer = Field(100, ge=1, le=5000, description="Messages that a receiver fetches ahead.")
    receivers: Integer = Field(1, ge=1, le=64, description="Number of receivers, each with its own connection.")
    max_hold: Duration = Field(
        300.0,
        gt=0,
        description="Longest wait for a retry under a renewed lock; a longer wait continues on the engine if the "
        "source has a `dead_letter`.",
    )


class ServiceBusTargetConfig(Model):
    """Options of Service Bus targets."""

    key: Literal["session", "partition", "none"] = Field(
        "session", description="Use of the message key: session id, partition key, or none."
    )
    time_to_live: Duration | None = Field(None, gt=0, description="Time to live of messages that set none.")
