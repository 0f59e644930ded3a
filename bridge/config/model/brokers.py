"""Configuration of brokers and publish targets."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, WithJsonSchema, model_validator

from bridge.config.model.servicebus import ServiceBusBrokerConfig, ServiceBusTargetConfig
from bridge.config.model.types import Duration, Entity, Integer, Model, Name, Size


class LocalBrokerConfig(Model):
    """A durable log in one SQLite file, shared by the processes of one machine."""

    type: Literal["local"] = Field(description="The kind of broker.")
    path: str = Field(".bridge/broker", description="Directory of the log, relative to the config file.")
    partitions: Integer = Field(4, ge=1, le=1024, description="Partitions of a topic when it is created.")
    retention: Duration | None = Field(None, description="How long records are kept; null: for ever.")
    commit_interval: Duration = Field(0.05, description="How long completed records may wait to be committed together.")


_AWS = "aws-msk"


class KafkaTlsConfig(Model):
    """TLS to Kafka. `{}` trusts the system's certificate authorities."""

    ca: str | None = Field(None, min_length=1, description="File of the authorities that are trusted, PEM.")
    certificate: str | None = Field(None, min_length=1, description="File of our certificate and its chain, PEM.")
    key: str | None = Field(None, min_length=1, description="File of its key, PEM; null: in `certificate` too.")
    key_password: SecretStr | None = Field(None, description="Password of the key.")
    check_hostname: bool = Field(True, description="Whether the server's name must be the certificate's.")


class KafkaSaslConfig(Model):
    """SASL credentials of the bridge."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        description="How it is proven."
    )
    username: str | None = Field(None, description="For PLAIN and SCRAM.")
    password: SecretStr | None = Field(None, description="For PLAIN and SCRAM.")
    token: str | None = Field(
        None,
        pattern=r"^(azure|aws-msk|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$",
        description="For OAUTHBEARER: `azure`, `aws-msk` (needs the extra `aws-msk`), or `module:function` that "
        "returns a token and when it expires.",
    )
    scope: str | None = Field(None, description="Scope of an azure token; null: that of the first server's name.")
    client_id: str | None = Field(None, description="Client id of an azure managed identity.")
    region: str | None = Field(
        None, pattern=r"^[a-z0-9-]+$", description="AWS region of aws-msk; null: that in the first server's name."
    )
    role: str | None = Field(
        None,
        pattern=r"^arn:[^\s]+$",
        description="ARN of a role that aws-msk takes on; null: the process's own identity.",
    )

    @model_validator(mode="after")
    def _complete(self) -> KafkaSaslConfig:
        if self.token != _AWS and (self.region is not None or self.role is not None):
            raise ValueError("`region` and `role` go with `token: aws-msk`")
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

    type: Literal["kafka"] = Field(description="The kind of broker.")
    hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts), WithJsonSchema(_HOSTS_SCHEMA)] = Field(
        alias="bootstrap_servers",
        min_length=1,
        description="Servers to begin with, `host:port`; a list, or text with commas.",
    )
    client_id: str = Field("durable-bridge", min_length=1, description="What the cluster's logs and quotas call us.")
    tls: KafkaTlsConfig | None = Field(None, description="TLS; null: none.")
    sasl: KafkaSaslConfig | None = Field(None, description="Authentication; null: none.")
    create_topics: bool = Field(False, description="Make topics that are missing, dead-letter topics among them.")
    partitions: Integer = Field(4, ge=1, description="Partitions of topics that are made.")
    replication: Integer | None = Field(
        None, ge=1, description="Replicas of topics that are made; null: 3, or as many as there are nodes."
    )
    commit_interval: Duration = Field(1.0, gt=0, description="How long completed records wait to be committed.")
    session_timeout: Duration = Field(30.0, ge=1, description="How long a silent member keeps its partitions.")
    rebalance_timeout: Duration = Field(60.0, ge=1, description="How long a hand-over may take.")
    max_poll_interval: Duration = Field(300.0, ge=1, description="How long a member may read nothing.")
    metadata_max_age: Duration = Field(60.0, ge=0.1, description="How soon new topics and partitions are noticed.")
    request_timeout: Duration = Field(20.0, gt=0, description="Deadline of one request.")
    fetch_bytes: Size = Field(16777216, ge=1024, description="Fetched from one node at once.")
    fetch_partition_bytes: Size = Field(
        1048576, ge=1024, description="Fetched ahead from one partition; a larger record passes all the same."
    )
    max_batch: Size = Field(
        67108864,
        ge=1024,
        description="Largest record batch when decompressed; a larger one cannot be read. A source holds less than "
        "twice as much decompressed at once.",
    )
    max_records: Integer = Field(
        500_000, ge=1, le=10_000_000, description="Most records of a batch; one with more cannot be read."
    )
    max_headers: Integer = Field(
        1_000, ge=0, le=100_000, description="Most headers of a record; one with more cannot be read."
    )
    publish_timeout: Duration = Field(30.0, gt=0, description="Deadline of one publish, dead letters among them.")
    max_request: Size = Field(67108864, ge=1024, description="Largest record that is sent; topics have limits too.")
    linger: Duration = Field(0.0, ge=0, le=1, description="How long records wait for others to be sent with.")
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("none", description="Of what is published.")

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
            raise ValueError("`token: aws-msk` needs `region`: the first server's name does not tell it")
        return self


BrokerConfig = Annotated[LocalBrokerConfig | KafkaBrokerConfig | ServiceBusBrokerConfig, Field(discriminator="type")]
"""Configuration of a broker of any type."""


class TargetSchemaConfig(Model):
    """Schema with which a target writes."""

    registry: Name | None = Field(None, description="Name of the registry, from `registries`; null: the only one.")
    subject: str = Field(
        "{topic}-value",
        min_length=1,
        description="Subject of the schema; `{topic}` and `{record}` stand for the topic and the record's full name.",
    )
    file: str | None = Field(
        None,
        min_length=1,
        description="The schema: Avro as JSON, Protobuf as a descriptor set; null: the subject's latest.",
    )
    message: str | None = Field(
        None,
        min_length=1,
        description=(
            "Full name of the Protobuf message, null: the first; of the Avro record where the schema is a union, null: "
            "the first that fits. An event's `recordname` goes before it."
        ),
    )
    auto_register: bool = Field(False, description="Register the schema of `file` when the subject does not have it.")
    schema_id: Literal["prefix", "header"] = Field(
        "prefix", description="Where the id goes: before the data, or as GUID into the header `__value_schema_id`."
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

    broker: Name = Field(description="Name of the broker, from `brokers`.")
    topic: Entity | None = Field(None, description="Topic to publish to.")
    queue: Entity | None = Field(None, description="Queue to publish to instead, on Service Bus.")
    codec: Literal["cloudevents", "cloudevents-binary", "json", "text", "bytes", "avro", "protobuf"] = Field(
        "cloudevents", description="Format of what is published; `cloudevents` is the structured form."
    )
    schemas: TargetSchemaConfig | None = Field(None, description="What only `avro` and `protobuf` have.")
    source: str = Field("durable-bridge", description="CloudEvents `source` of what is published here.")
    timeout: Duration = Field(
        30.0, gt=0, description="Deadline of one publish; then the activity fails and is retried."
    )
    servicebus: ServiceBusTargetConfig | None = Field(None, description="What only a Service Bus target has.")

    @property
    def address(self) -> str:
        """Name of the topic or queue on the broker."""
        return self.topic or self.queue or ""
