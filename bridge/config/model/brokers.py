"""Configuration of brokers and publish targets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from bridge.config.model.claims import TargetClaimConfig
from bridge.config.model.codecs import TargetCodec
from bridge.config.model.servicebus import ServiceBusBrokerConfig, ServiceBusTargetConfig
from bridge.config.model.tls import ProtectedTlsConfig
from bridge.config.model.types import Duration, Entity, Integer, Model, Name, Size
from bridge.config.model.webhook import WebhookBrokerConfig


class LocalBrokerConfig(Model):
    """A durable log in one SQLite file, shared by the processes of one machine."""

    type: Literal["local"] = Field(description="Kind of broker.")
    path: str = Field(".bridge/broker", description="Directory of the log, relative to the config file.")
    partitions: Integer = Field(4, ge=1, le=1024, description="Partitions of a topic when it is created.")
    retention: Duration | None = Field(None, description="Time that records are kept; null: without limit.")
    commit_interval: Duration = Field(0.05, description="Longest time until completed records are committed together.")


_AWS = "aws-msk"


class KafkaTlsConfig(ProtectedTlsConfig):
    """TLS to Kafka. `{}` trusts the system's certificate authorities."""

    check_hostname: bool = Field(True, description="Verify that the certificate has the name of the server.")


class KafkaSaslConfig(Model):
    """SASL credentials of the bridge."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(description="SASL mechanism.")
    username: str | None = Field(None, description="Credential for PLAIN and SCRAM.")
    password: SecretStr | None = Field(None, description="Credential for PLAIN and SCRAM.")
    token: str | None = Field(
        None,
        pattern=r"^(azure|aws-msk|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="Token for OAUTHBEARER: `azure`, `aws-msk` (needs the extra `aws-msk`), or "
        "`module:function` that returns a token and its time of expiry.",
    )
    scope: str | None = Field(
        None, description="Scope of an `azure` token; null: the scope for the name of the first server."
    )
    client_id: str | None = Field(None, description="Client id of an `azure` managed identity.")
    region: str | None = Field(
        None,
        pattern=r"^[a-z0-9-]+$",
        description="AWS region of an `aws-msk` token; null: the region in the name of the first server.",
    )
    role: str | None = Field(
        None,
        pattern=r"^arn:[^\s]+$",
        description="ARN of the role for an `aws-msk` token; null: the identity of the process.",
    )

    @model_validator(mode="after")
    def _complete(self) -> KafkaSaslConfig:
        if self.token != _AWS and (self.region is not None or self.role is not None):
            raise ValueError("`region` and `role` need `token: aws-msk`")
        if self.mechanism == "OAUTHBEARER":
            if self.token is None:
                raise ValueError("OAUTHBEARER needs `token`")
        elif self.username is None or self.password is None:
            raise ValueError(f"{self.mechanism} needs `username` and `password`")
        return self


def _hosts(value: Any) -> Any:
    hosts = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    for host in hosts if isinstance(hosts, list | tuple) else ():
        if not isinstance(host, str) or re.fullmatch(r"[^\s:/]+:\d{1,5}|\[[0-9a-fA-F:]+\]:\d{1,5}", host) is None:
            raise ValueError(f"{host!r} is not a server; write host:port")
    return hosts


_HOSTS_SCHEMA = {
    "anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    "examples": ["localhost:9092", ["kafka-1:9092", "kafka-2:9092"]],
}


_EVENT_HUBS = re.compile(r"\.servicebus\.(?:windows\.net|chinacloudapi\.cn|usgovcloudapi\.net):", re.IGNORECASE)
_MSK = re.compile(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.amazonaws\.com")


class KafkaBrokerConfig(Model):
    """A Kafka cluster, or a service that speaks the Kafka protocol. Needs the extra `kafka`."""

    type: Literal["kafka"] = Field(description="Kind of broker.")
    hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts), WithJsonSchema(_HOSTS_SCHEMA)] = Field(
        alias="bootstrap_servers",
        min_length=1,
        description="Bootstrap servers, `host:port`; a list, or text with commas.",
    )
    client_id: str = Field("durable-bridge", min_length=1, description="Client id in logs and quotas of the cluster.")
    tls: KafkaTlsConfig | None = Field(None, description="TLS settings; null: none.")
    sasl: KafkaSaslConfig | None = Field(None, description="Authentication settings; null: none.")
    create_topics: bool = Field(False, description="Create missing topics, dead-letter topics included.")
    partitions: Integer = Field(4, ge=1, description="Partitions of created topics.")
    replication: Integer | None = Field(
        None, ge=1, description="Replicas of created topics; null: 3, or the number of nodes if there are fewer."
    )
    commit_interval: Duration = Field(1.0, gt=0, description="Longest time until completed records are committed.")
    session_timeout: Duration = Field(
        30.0, ge=1, description="Time without heartbeats after which a member loses its partitions."
    )
    rebalance_timeout: Duration = Field(60.0, ge=1, description="Deadline of members to join a rebalance.")
    max_poll_interval: Duration = Field(300.0, ge=1, description="Longest time between two reads of a member.")
    metadata_max_age: Duration = Field(
        60.0, ge=0.1, description="Longest time until new topics and partitions are noticed."
    )
    request_timeout: Duration = Field(20.0, gt=0, description="Deadline of one request.")
    fetch_bytes: Size = Field(16777216, ge=1024, description="Bytes per fetch from one node.")
    fetch_partition_bytes: Size = Field(
        1048576, ge=1024, description="Bytes that are fetched ahead from one partition; a larger record is still read."
    )
    max_batch: Size = Field(
        67108864,
        ge=1024,
        description="Largest decompressed record batch; larger ones cannot be read. A source holds less than "
        "twice as many decompressed bytes at once.",
    )
    max_records: Integer = Field(
        500_000, ge=1, le=10_000_000, description="Records of one batch; a batch with more cannot be read."
    )
    max_headers: Integer = Field(
        1_000, ge=0, le=100_000, description="Headers of one record; a record with more cannot be read."
    )
    publish_timeout: Duration = Field(30.0, gt=0, description="Deadline of one publish; also for dead letters.")
    max_request: Size = Field(
        67108864, ge=1024, description="Largest record that is sent; topics have their own limits."
    )
    linger: Duration = Field(0.0, ge=0, le=1, description="Time that records wait to be sent in one batch.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field(
        "none", description="Compression of published records."
    )

    @property
    def is_event_hubs(self) -> bool:
        """True if the first server belongs to Azure Event Hubs."""
        return _EVENT_HUBS.search(self.hosts[0]) is not None

    @property
    def region(self) -> str | None:
        """AWS region of the cluster: the configured region, else the one in the first server's name, else None."""
        if self.sasl is not None and self.sasl.region is not None:
            return self.sasl.region
        found = _MSK.search(self.hosts[0])
        return found[1] if found else None

    @model_validator(mode="after")
    def _require_endpoint(self) -> KafkaBrokerConfig:
        if self.sasl is not None and self.sasl.token == _AWS and self.region is None:
            raise ValueError("`token: aws-msk` needs `region`: the name of the first server does not contain it")
        return self


BrokerConfig = Annotated[
    LocalBrokerConfig | KafkaBrokerConfig | ServiceBusBrokerConfig | WebhookBrokerConfig, Field(discriminator="type")
]
"""Configuration of a broker of any type."""


class TargetSchemaConfig(Model):
    """Schema with which a target writes."""

    registry: Name | None = Field(None, description="Name of a registry of `registries`; null: the only one.")
    subject: str = Field(
        "{topic}-value",
        min_length=1,
        description="Subject of the schema; `{topic}` and `{record}` stand for the topic and the full name of "
        "the record.",
    )
    file: str | None = Field(
        None,
        min_length=1,
        description="Schema file: Avro as JSON, Protobuf as a descriptor set; null: the latest schema of the subject.",
    )
    message: str | None = Field(
        None,
        min_length=1,
        description=(
            "Full name of the Protobuf message (null: the first one), or of the Avro record in a "
            "union (null: the first one that fits). The attribute `recordname` of an event takes "
            "precedence."
        ),
    )
    auto_register: bool = Field(False, description="Register the schema of `file` if the subject does not have it.")
    schema_id: Literal["prefix", "header"] = Field(
        "prefix", description="Place of the schema id: before the data, or as GUID in the header `__value_schema_id`."
    )

    @model_validator(mode="after")
    def _complete(self) -> TargetSchemaConfig:
        if self.file is None and self.auto_register:
            raise ValueError("`auto_register` needs a `file`")
        if self.file is None and "{record}" in self.subject:
            raise ValueError("`{record}` in `subject` needs a `file`")
        return self


class TargetConfig(Model):
    """A logical destination to which activities publish."""

    broker: Name = Field(description="Name of a broker of `brokers`.")
    topic: Entity | None = Field(None, description="Topic to publish to; a webhook has none.")
    queue: Entity | None = Field(None, description="Queue to publish to, on Service Bus.")
    codec: TargetCodec = Field(
        "cloudevents", description="Format of published messages; `cloudevents` is the structured form."
    )
    schemas: TargetSchemaConfig | None = Field(None, description="Settings for `avro` and `protobuf`.")
    source: str = Field("durable-bridge", description="CloudEvents `source` of published events.")
    timeout: Duration = Field(
        30.0, gt=0, description="Deadline of one publish; afterwards the activity fails and is retried."
    )
    servicebus: ServiceBusTargetConfig | None = Field(None, description="Settings of Service Bus targets.")
    claim_check: TargetClaimConfig | None = Field(
        None, description="Store for large payloads, to which messages then refer; null: none."
    )

    @model_validator(mode="after")
    def _check_claims(self) -> TargetConfig:
        if self.claim_check is not None and self.codec in ("avro", "protobuf"):
            raise ValueError(f"`claim_check` needs another codec than `{self.codec}`")
        return self

    @property
    def address(self) -> str:
        """Name of the topic or queue on the broker; empty on a webhook."""
        return self.topic or self.queue or ""
